"""How much the groups' columns are held back follows from what they are worth for held-out images."""

from __future__ import annotations

import torch
from torch import Tensor
from zoo.probes.folds import Folds, make_folds
from zoo.probes.layer_penalty import FACTORS, ChosenPenalty, choose_penalty, penalties_of
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import STRENGTHS

CLASSES, POOLED, GROUPS = 3, 8, 400


def images(groups_tell: bool) -> tuple[Tensor, Tensor, Folds]:
    """Pooled features that tell the class, and groups' columns that tell it better or are noise."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % CLASSES
    centres = torch.randn(CLASSES, POOLED, generator=generator) * (0.1 if groups_tell else 2)
    pooled = centres[targets] + torch.randn(90, POOLED, generator=generator)
    groups = torch.randn(90, GROUPS, generator=generator) * 2
    if groups_tell:
        groups += 0.3 * torch.randn(CLASSES, GROUPS, generator=generator)[targets]
    return torch.cat([pooled, groups], 1), targets, make_folds(targets.tolist(), range(90))


def choose(features: Tensor, targets: Tensor, folds: Folds, told: list[tuple[int, int]] | None = None) -> ChosenPenalty:
    def problem_with(factor: float) -> LogisticProblem:
        penalties = penalties_of(features.shape[1], POOLED, factor)
        return LogisticProblem(features, targets, CLASSES, penalties=penalties)

    def progress(done: int, total: int) -> None:
        if told is not None:
            told.append((done, total))

    return choose_penalty(problem_with, folds, progress=progress)


def test_groups_of_noise_are_held_back_and_held_out_images_are_told_better() -> None:
    found = choose(*images(groups_tell=False))
    losses = {each.factor: each.loss for each in found.tried}
    assert found.factor > 1 and losses[found.factor] == min(losses.values()) < losses[1.0]
    fit = found.problem.fit(found.strength.strength)
    alone = choose_penalty_of_pooled(*images(groups_tell=False))
    assert fit.weight[:, POOLED:].norm() < fit.weight[:, :POOLED].norm()
    assert losses[found.factor] < (losses[1.0] + alone) / 2, "closer to what the pooled features alone reach"


def choose_penalty_of_pooled(features: Tensor, targets: Tensor, folds: Folds) -> float:
    found = choose_penalty(
        lambda factor: LogisticProblem(features[:, :POOLED], targets, CLASSES), folds, factors=FACTORS[:1]
    )
    return found.tried[0].loss


def test_groups_that_tell_the_class_are_not_and_the_search_ends_where_the_loss_rises() -> None:
    told: list[tuple[int, int]] = []
    found = choose(*images(groups_tell=True), told)
    factors = [each.factor for each in found.tried]
    assert found.factor < 16 and factors == [*FACTORS[: len(factors)]] and factors[-2:-1] == [found.factor]
    assert told == sorted(told) and told[-1] == (len(FACTORS) * len(STRENGTHS),) * 2


def test_where_nothing_can_be_held_out_all_columns_count_alike() -> None:
    features, targets, _ = images(groups_tell=False)
    found = choose(features[:3], targets[:3], make_folds([0, 1, 2], range(3)))
    assert found.factor == 1 and found.tried == ()
