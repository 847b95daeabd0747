"""Accuracy and macro F1 are those of torchmetrics, to the last bit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from zoo.evaluation.metrics import Scores, score
from zoo.evaluation.probabilities import best_classes, top_classes


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (7, 2), (12, 3), (153, 5), (1000, 20), (50, 300)])
@pytest.mark.parametrize("sure", [0.0, 2.0, 50.0])
def test_scores_are_those_of_torchmetrics(count: int, classes: int, sure: float) -> None:
    from torchmetrics.functional import classification as reference  # importing it takes long

    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(classes, (count,), generator=generator)
        logits = torch.randn(count, classes, generator=generator)
        logits[torch.arange(count), targets] += sure
        logits[:, :1] += seed  # one class is preferred, so that others are never predicted
        found = score(logits, targets)
        assert found.accuracy == pytest.approx(
            float(reference.multiclass_accuracy(logits, targets, num_classes=classes, average="micro")), rel=1e-6
        )
        assert found.macro_f1 == float(
            reference.multiclass_f1_score(logits, targets, num_classes=classes, average="macro")
        )


def test_a_class_that_does_not_occur_does_not_count_and_ties_go_to_the_first() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    found = score(logits, torch.tensor([0, 1, 1]))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert score(logits.to(torch.bfloat16), torch.tensor([0, 1, 0])).macro_f1 == 1


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_balanced_scores_are_those_of_torchmetrics_and_of_a_weighted_loss(classes: int) -> None:
    from torchmetrics.functional import classification as reference

    generator = torch.Generator().manual_seed(classes)
    # Class 0 is large, and the last one has no images: it does not count.
    targets = torch.cat([torch.zeros(200, dtype=torch.int64), torch.arange(classes).repeat(3)])
    logits = torch.randn(len(targets), classes + 1, generator=generator)
    logits[torch.arange(len(targets)), targets] += 1
    found = score(logits, targets, balanced=True)
    recalls = reference.multiclass_recall(logits, targets, num_classes=classes + 1, average="none")[:classes]
    assert found.balanced_accuracy == pytest.approx(float(recalls.double().mean()), rel=1e-6)
    weights = 1 / torch.bincount(targets, minlength=classes + 1).float()
    weighted = torch.nn.functional.cross_entropy(logits, targets, weight=weights.nan_to_num(posinf=0))
    assert found.balanced_loss == pytest.approx(float(weighted), rel=1e-5)
    plain = score(logits, targets)
    assert plain.balanced_accuracy is None and set(plain.to_dict()) == {"accuracy", "macro_f1", "loss"}
    assert {name: found.to_dict()[name] for name in plain.to_dict()} == plain.to_dict()


def test_a_tie_in_balanced_accuracy_is_one_whatever_sums_are_rounded_to() -> None:
    # One of 3 is three of 9; and one of 10 with three of 30 is fourteen of 70.
    for counts, hits, others in (((3, 9, 49), (1, 0, 3), (0, 3, 3)), ((10, 30, 70), (1, 3, 0), (0, 0, 14))):
        targets = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))

        def of_right(right: tuple[int, ...], targets: torch.Tensor, counts: tuple[int, ...]) -> float | None:
            is_right = torch.cat([torch.arange(n) < h for n, h in zip(counts, right, strict=True)])
            predicted = torch.where(is_right, targets, (targets + 1) % 3)
            return score(torch.nn.functional.one_hot(predicted, 3).float(), targets, balanced=True).balanced_accuracy

        assert of_right(hits, targets, counts) == of_right(others, targets, counts)


def test_models_are_compared_by_balanced_scores_where_both_have_them() -> None:
    large, rare = Scores(0.9, 0.5, 0.3, 0.5, 1.2), Scores(0.8, 0.6, 0.5, 0.7, 0.6)
    assert rare.better_than(large) and not large.better_than(rare) and not rare.better_than(rare)
    # As a checkpoint of an older zoo has them.
    before = Scores(0.85, 0.5, 0.4)
    assert large.better_than(before) and before.better_than(rare)
    broken = Scores(0.9, 0.5, math.nan, 0.9, math.nan)
    assert large.better_than(broken) and not broken.better_than(large)
    assert Scores.from_file(json.loads(json.dumps(rare.to_dict()))) == rare


@pytest.mark.parametrize("classes", [2, 12, 300])
def test_of_equal_classes_the_first_is_the_best_however_many_are_listed(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(4, (50, classes), generator=generator).float()
    probabilities, order = best_classes(logits, 10**6)
    assert torch.equal(order[:, 0], top_classes(logits)) and order.shape == (50, classes)
    for row, named in zip(logits.tolist(), order.tolist(), strict=True):
        assert named == sorted(range(classes), key=lambda index: -row[index])
    assert torch.equal(probabilities, logits.softmax(1).gather(1, order))
    for most in (1, 2, 5):
        assert torch.equal(best_classes(logits, most)[1], order[:, :most])
