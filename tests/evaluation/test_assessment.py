"""Scores from logits and targets agree with torchmetrics, and with numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import zoo
from zoo.evaluation.metrics import assess, reliability_bins, score, wilson_interval
from zoo.evaluation.predictions import from_csv, predictions_of, to_csv


def drawn(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) + 1.5 * torch.nn.functional.one_hot(targets, classes)
    return logits, targets


def names(count: int) -> list[str]:
    return [f"class{index}" for index in range(count)]


@pytest.mark.parametrize(("count", "classes"), [(7, 2), (200, 5), (500, 12)])
def test_the_numbers_are_those_of_torchmetrics(count: int, classes: int) -> None:
    from torchmetrics.functional import classification as reference  # importing it takes long

    logits, targets = drawn(count, classes)
    found = assess(logits, targets, names(classes))
    assert found.accuracy.value == pytest.approx(
        float(reference.multiclass_accuracy(logits, targets, classes, average="micro")), abs=1e-6
    )
    assert found.macro_f1 == pytest.approx(
        float(reference.multiclass_f1_score(logits, targets, classes, average="macro"))
    )
    assert found.calibration_error == pytest.approx(
        float(reference.multiclass_calibration_error(logits.softmax(1), targets, classes, n_bins=15)), abs=1e-6
    )
    recalls = reference.multiclass_recall(logits, targets, classes, average="none").tolist()
    precisions = reference.multiclass_precision(logits, targets, classes, average="none").tolist()
    for scores, recall, precision in zip(found.classes, recalls, precisions, strict=True):
        assert (scores.recall.value if scores.recall else 0) == pytest.approx(recall)
        assert (scores.precision.value if scores.precision else 0) == pytest.approx(precision)


def test_they_agree_with_the_scores_by_which_stages_are_chosen() -> None:
    logits, targets = drawn(300, 7)
    found, scores = assess(logits, targets, names(7)), score(logits, targets)
    assert found.accuracy.value == scores.accuracy
    assert found.macro_f1 == scores.macro_f1 and found.loss == scores.loss


def test_top_5_is_given_only_where_it_says_something() -> None:
    from torchmetrics.functional import classification as reference  # importing it takes long

    logits, targets = drawn(300, 5)
    assert assess(logits, targets, names(5)).top5 is None
    logits, targets = drawn(300, 6)
    found = assess(logits, targets, names(6)).top5
    assert found is not None and found.value == pytest.approx(
        float(reference.multiclass_accuracy(logits, targets, 6, average="micro", top_k=5)), abs=1e-6
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, table I (score method without continuity correction), and the closed forms at the ends.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_the_published_ones(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_an_interval_needs_trials_and_ends_with_the_share_at_the_ends() -> None:
    assert wilson_interval(0, 0) is None
    all_right = wilson_interval(5, 5)
    assert all_right is not None and all_right.high == all_right.value == 1 and all_right.low < 0.6


def test_a_class_without_images_has_no_recall_and_one_never_named_no_precision() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    a, b, c = assess(logits, torch.tensor([0, 1]), ["a", "b", "c"]).classes
    assert a.recall is not None and a.recall.value == 1 and a.precision is not None and a.precision.value == 0.5
    assert b.recall is not None and b.recall.value == 0 and b.precision is None
    assert c.recall is None and c.precision is None and c.f1 == 0


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    logits = torch.eye(3)[[1, 1, 2]]
    assert assess(logits, torch.tensor([0, 1, 2]), ["a", "b", "c"]).confusion == ((0, 1, 0), (0, 1, 0), (0, 0, 1))


def test_bins_hold_every_image_once_also_at_their_edges() -> None:
    confidence = torch.tensor([0.5, 0.6, 1.0], dtype=torch.float64)
    bins = reliability_bins(torch.stack([confidence, 1 - confidence], 1), torch.tensor([0, 1, 0]), bins=10)
    assert [part.images for part in bins] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert bins[-1].accuracy == 1 and bins[5].accuracy == 0 and bins[0].accuracy is None


def test_logits_that_are_no_numbers_are_counted_and_not_an_error() -> None:
    found = assess(torch.full((2, 3), float("nan")), torch.tensor([0, 1]), ["a", "b", "c"])
    assert sum(map(sum, found.confusion)) == 2 and found.calibration_error != found.calibration_error


def test_predictions_survive_the_file_whatever_the_names() -> None:
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    files = ['val/a, "b"/x\ny.jpg', "val/<script>/ü\r.jpg"]
    made = predictions_of("val", files, logits, targets, ["a, b", "c"])
    assert [prediction.right for prediction in made] == [True, False]
    assert made[1].probability_of_label == pytest.approx(1 - made[1].probability)
    back = list(from_csv(to_csv(made)))
    assert [(row.file, row.label, row.predicted) for row in back] == [
        (row.file, row.label, row.predicted) for row in made
    ]
    assert back[0].probability == pytest.approx(made[0].probability, abs=1e-6)
    with pytest.raises(ValueError, match="columns"):
        list(from_csv("a,b\n"))


def test_an_assessment_is_plain_json() -> None:
    logits, targets = drawn(20, 3)
    content = json.loads(json.dumps(assess(logits, targets, names(3)).to_dict()))
    assert content["classes"][0].keys() >= {"name", "images", "precision", "recall", "f1"}
    assert len(content["reliability"]) == 15


def test_the_picture_of_a_confusion_matrix_is_dark_where_a_class_goes() -> None:
    image = zoo.draw_confusion([[9, 1], [0, 10]], ["a cat", "a dog"])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    cells = {(row, column): image[-72 + 36 * row + 4, -72 + 36 * column + 4, 0] for row in (0, 1) for column in (0, 1)}
    assert cells[1, 1] < cells[0, 0] < cells[0, 1] < cells[1, 0] == 255
    many = zoo.draw_confusion(np.eye(60, dtype=int).tolist(), [f"class {number}" for number in range(60)])
    assert many.shape == (360, 360, 3)
