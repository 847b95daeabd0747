"""A learning curve: honest about images that are alike, the same by seed, longer where there are more images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from zoo.probes.learning_curve import SHARES, LearningCurve, learning_curve


def clouds(per_class: int, classes: int = 3, noise: float = 2.0, width: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    targets = torch.arange(per_class * classes) % classes
    centres = torch.randn(classes, width, generator=generator)
    return centres[targets] + noise * torch.randn(len(targets), width, generator=generator), targets


def same(one: LearningCurve, other: LearningCurve) -> bool:
    return torch.equal(one.right, other.right)


def test_more_images_are_better_and_every_image_is_judged_at_every_share() -> None:
    curve = learning_curve(*clouds(60), 3)
    assert curve.shares == SHARES and curve.images == 180 and curve.right.shape == (3, 5, 180)
    accuracies = curve.accuracies
    assert accuracies[0] + 0.05 < accuracies[2] < accuracies[-1] + 0.02


def test_an_image_that_a_draw_does_not_hold_out_is_no_mistake_of_it() -> None:
    # The second class has two pictures, both copies of some of the first: in some draws one is in every training part.
    labels = [0] * 12 + [1] * 2
    features = torch.tensor([[8.0 if label else -8.0] for label in labels])
    for seed in range(3):
        curve = learning_curve(features, torch.tensor(labels), 2, groups=[*range(12), 0, 1], seed=seed)
        assert curve.judged.any() and curve.right[:, -1, curve.judged].all()


def test_progress_grows_as_the_work_does() -> None:
    said: list[tuple[int, int]] = []
    learning_curve(*clouds(60), 3, progress=lambda done, total: said.append((done, total)))
    assert [done for done, _ in said] == [33, 99, 234, 504, 1044] and {total for _, total in said} == {1044}


def test_it_follows_from_the_seed_alone_not_from_the_number_of_threads() -> None:
    features, targets = clouds(20)
    first = learning_curve(features, targets, 3, draws=2)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert same(first, learning_curve(features, targets, 3, draws=2))
        assert torch.get_num_threads() == (1 if before > 1 else 2), "the caller's threads are given back"
    finally:
        torch.set_num_threads(before)
    assert not same(first, learning_curve(features, targets, 3, draws=2, seed=1))


def test_copies_are_never_apart_and_apart_they_would_flatter() -> None:
    features, _ = clouds(40, width=60)
    labels = torch.randint(3, (120,), generator=torch.Generator().manual_seed(1))
    twice, targets = features.repeat(2, 1), labels.repeat(2)
    groups = [*range(120), *range(120)]
    together, apart = (learning_curve(twice, targets, 3, groups=each, draws=2) for each in (groups, None))
    assert together.accuracies[-1] + 0.1 < apart.accuracies[-1]


@pytest.mark.parametrize(("per_class", "shares"), [(1, 1), (2, 1), (6, 2), (60, 5)])
def test_a_curve_of_few_images_is_short(per_class: int, shares: int) -> None:
    curve = learning_curve(*clouds(per_class), 3, draws=1)
    assert len(curve.shares) == shares and curve.shares[-1] == 1
    assert curve.images == (0 if per_class == 1 else 3 * per_class)


def test_three_images_are_enough_for_a_curve_that_says_little() -> None:
    features, _ = clouds(1)
    curve = learning_curve(features, torch.tensor([0, 0, 1]), 2, draws=1)
    assert curve.images == 2 and len(curve.shares) == 1


def test_an_image_alone_in_its_class_is_not_judged() -> None:
    features, targets = clouds(10)
    targets = torch.cat([targets, torch.tensor([3])])
    curve = learning_curve(torch.cat([features, features[:1] + 1]), targets, 4, draws=1)
    assert curve.images == 30 and not bool(curve.judged[-1])


def test_subsets_that_are_copies_of_one_picture_are_survived() -> None:
    """A class of a few pictures, each there many times: a small subset may lie in one fold as a whole."""
    draw = torch.Generator().manual_seed(2)
    pictures = torch.randn(4, 8, generator=draw)
    for seed in range(6):
        of = [0] * 15 + [1] * 15 + [2] * 10 + [3] * 10
        targets = torch.tensor([0] * 30 + [1] * 20)
        curve = learning_curve(pictures[torch.tensor(of)], targets, 2, groups=of, seed=seed)
        assert all(0 <= each <= 1 for each in curve.accuracies)
