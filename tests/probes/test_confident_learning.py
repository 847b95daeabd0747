"""Confident learning: what it counts, by hand and against cleanlab, and what its ranking finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo.probes.confident_learning import (
    calibrated,
    class_thresholds,
    confident_joint,
    label_issues,
    label_margins,
    suggested_classes,
    wrong_labels,
)

SIZES = [(40, 2), (60, 3), (200, 7), (500, 12)]


def drawn(images: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Probabilities[N, classes] of a fair judge, and labels[N] of which a tenth are exchanged."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=generator) + 3 * torch.nn.functional.one_hot(truth, classes)
    labels = truth.clone()
    labels[: images // 10] = (labels[: images // 10] + 1) % classes
    return logits.double().softmax(1), labels


def test_four_images_are_counted_as_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.9, 0.1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert class_thresholds(probabilities, labels).tolist() == pytest.approx([0.8, 0.45])
    assert confident_joint(probabilities, labels).tolist() == [[1, 0], [1, 1]]  # nobody is sure of the second image
    assert calibrated(confident_joint(probabilities, labels), labels).tolist() == [[2, 0], [1, 1]]
    assert wrong_labels(probabilities, labels) == 1
    assert label_issues(probabilities, labels).tolist() == [False, False, False, True]
    assert suggested_classes(probabilities, labels).tolist() == [1, 1, 0, 0]
    assert label_margins(probabilities, labels).argsort().tolist() == [3, 1, 2, 0]


def test_a_label_that_is_the_most_probable_is_no_issue_though_another_class_alone_reaches_its_threshold() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.60, 0.40], [0.65, 0.35]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert class_thresholds(probabilities, labels).tolist() == pytest.approx([0.8167, 0.375], abs=1e-3)
    assert label_issues(probabilities, labels).tolist() == [False, False, False, False, False]


@pytest.mark.parametrize(("images", "classes"), SIZES)
def test_counts_and_scores_are_those_of_cleanlab(images: int, classes: int) -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab is not installed: pip install 'zoo-registry[test]'")
    filters = pytest.importorskip("cleanlab.filter")
    for seed in range(5):
        probabilities, labels = drawn(images, classes, seed)
        ours, given = probabilities.numpy(), labels.numpy()
        np.testing.assert_allclose(
            class_thresholds(probabilities, labels).numpy(), count.get_confident_thresholds(given, ours), rtol=1e-12
        )
        joint = count.compute_confident_joint(given, ours, calibrate=False)
        assert confident_joint(probabilities, labels).int().tolist() == joint.tolist()
        # It rounds the calibrated joint to whole images, so that every row keeps its sum.
        whole = count.calibrate_confident_joint(joint, given)
        assert np.abs(calibrated(confident_joint(probabilities, labels), labels).numpy() - whole).max() <= 1
        theirs = filters.find_label_issues(given, ours, filter_by="confident_learning", n_jobs=1)
        assert label_issues(probabilities, labels).tolist() == theirs.tolist()


def test_the_ranking_begins_with_the_exchanged_labels() -> None:
    probabilities, labels = drawn(600, 5, 0)
    first = label_margins(probabilities, labels).argsort()[:60]
    assert int((first < 60).sum()) >= 54
    assert 40 <= wrong_labels(probabilities, labels) <= 90


def test_sure_probabilities_and_classes_without_images_do_no_harm() -> None:
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    assert bool(label_margins(probabilities, labels).isfinite().all())
    assert label_issues(probabilities, labels).tolist() == [False, False, True]
    joint = calibrated(confident_joint(probabilities, labels), labels)
    assert joint.sum(1).tolist() == [2, 1, 0]
