"""Accuracy and macro F1 are those of torchmetrics, to the last bit."""

from __future__ import annotations

import pytest
import torch
from zoo.evaluation.metrics import score


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
