"""The strength of the penalty: by held-out loss, strong to weak, and the rule that the constant names."""

from __future__ import annotations

import pytest
import torch
from zoo.probes.folds import make_folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import (
    RULE,
    STRENGTHS,
    WITHOUT_FOLDS,
    TriedStrength,
    choose_by,
    choose_strength,
)


def problem_of(noise: float, images: int = 60, classes: int = 3) -> LogisticProblem:
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(images) % classes
    centres = torch.randn(classes, 20, generator=generator)
    features = centres[targets] + noise * torch.randn(images, 20, generator=generator)
    return LogisticProblem(features, targets, classes)


def test_strengths_go_from_strong_to_weak() -> None:
    assert list(STRENGTHS) == sorted(STRENGTHS, reverse=True) and STRENGTHS[0] / STRENGTHS[-1] >= 1e5
    assert RULE in ("best", "one_se")


@pytest.mark.parametrize("rule", ["best", "one_se"])
def test_noisier_features_get_a_stronger_penalty(rule: str) -> None:
    chosen = []
    for noise in (0.5, 4.0):
        problem = problem_of(noise)
        chosen.append(choose_strength(problem, make_folds(problem.targets.tolist()), rule=rule).strength)  # type: ignore[arg-type]
    assert chosen[0] < chosen[1]


def test_the_loss_is_that_of_images_that_were_held_out() -> None:
    problem = problem_of(4.0)
    folds = make_folds(problem.targets.tolist())
    seen: list[tuple[int, int]] = []
    chosen = choose_strength(problem, folds, progress=lambda done, total: seen.append((done, total)))
    assert chosen.folds == 5 and seen[0] == (1, len(STRENGTHS)) and seen[-1] == (len(STRENGTHS), len(STRENGTHS))
    assert chosen.logits is not None and bool(chosen.logits.isfinite().all())
    told = next(each for each in chosen.tried if each.strength == chosen.strength)
    measured = torch.nn.functional.cross_entropy(chosen.logits.double(), problem.targets)
    assert (
        told.loss == pytest.approx(float(measured))
        and [each.standard_error == 0 for each in chosen.tried].count(True) == 1
    )
    assert min(chosen.tried, key=lambda each: each.loss).standard_error == 0
    # Images that the fit has seen would look far better with a weak penalty.
    weak = choose_strength(problem, folds, strengths=(1e-5,))
    fitted = problem.fit(1e-5).objective
    assert weak.tried[0].loss > 2 * fitted


def test_the_search_ends_when_the_loss_rises() -> None:
    problem = problem_of(4.0)
    chosen = choose_strength(problem, make_folds(problem.targets.tolist()))
    losses = [each.loss for each in chosen.tried]
    assert len(losses) < len(STRENGTHS)
    assert min(losses) < losses[-2] < losses[-1]


@pytest.mark.parametrize(
    ("losses", "errors", "best", "one_se"),
    [
        ([1.0, 0.8, 0.5, 0.6], [0.1] * 4, 2, 2),
        ([1.0, 0.58, 0.5, 0.6], [0.1] * 4, 2, 1),
        ([0.5, 0.5, 0.5], [0.0] * 3, 0, 0),
        ([0.9, 0.55, 0.5], [0.05, 0.06, 0.0], 2, 1),
    ],
)
def test_the_rule_of_one_standard_error_takes_the_strongest_that_may_be_the_best(
    losses: list[float], errors: list[float], best: int, one_se: int
) -> None:
    tried = [TriedStrength(1.0 / (index + 1), *pair) for index, pair in enumerate(zip(losses, errors, strict=True))]
    assert choose_by("best", tried) == best
    assert choose_by("one_se", tried) == one_se


def test_without_folds_there_is_a_strength_all_the_same() -> None:
    problem = LogisticProblem(torch.eye(3), torch.arange(3), 3)
    chosen = choose_strength(problem, make_folds([0, 1, 2]))
    assert (chosen.strength, chosen.tried, chosen.folds, chosen.logits) == (WITHOUT_FOLDS, (), 0, None)
    assert problem.fit(chosen.strength, chosen.start).weight.isfinite().all()


def test_the_strength_does_not_depend_on_the_scale_of_the_features() -> None:
    problem = problem_of(2.0)
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(60) % 3
    centres = torch.randn(3, 20, generator=generator)
    features = centres[targets] + 2.0 * torch.randn(60, 20, generator=generator)
    moved = LogisticProblem(1000 * features + 7, targets, 3)
    folds = make_folds(targets.tolist())
    assert choose_strength(moved, folds).strength == choose_strength(problem, folds).strength
