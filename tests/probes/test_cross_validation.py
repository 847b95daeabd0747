"""Cross-validated probes: no image is judged by a fit that has seen it, not even through the choice of the strength."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from zoo.probes.cross_validation import cross_validate
from zoo.probes.folds import Folds, make_folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import choose_by, compare_strengths

CLASSES = 3


def clusters(images: int, columns: int, *, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around one centre a class, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(images) % CLASSES
    centres = torch.randn(CLASSES, columns, generator=draw)
    return centres[targets] + spread * torch.randn(images, columns, generator=draw), targets


def test_labels_that_mean_nothing_are_guessed_out_of_fold_however_many_columns_there_are() -> None:
    draw = torch.Generator().manual_seed(1)
    features, targets = torch.randn(240, 400, generator=draw), torch.arange(240) % CLASSES
    judged = cross_validate(features, targets, CLASSES, make_folds(targets.tolist()))
    fit = LogisticProblem(features, targets, CLASSES).fit(1e-3)
    seen = ((features @ fit.weight.T + fit.bias).argmax(1) == targets).double().mean()
    assert seen == 1.0, "a fit that has seen them knows every label"
    assert 0.2 < float(judged.right(targets).double().mean()) < 0.47
    assert float(torch.nn.functional.cross_entropy(judged.logits, targets)) < 1.3, "and it is not sure of itself"


def test_it_is_the_nested_cross_validation_that_is_done_one_fold_at_a_time() -> None:
    features, targets = clusters(90, 12, spread=1.6)
    folds = make_folds(targets.tolist(), seed=3)
    strengths = (1.0, 0.1, 0.01, 0.001)
    judged = cross_validate(features, targets, CLASSES, folds, strengths=strengths)
    of_rows = torch.tensor(folds.of_rows)
    problem = LogisticProblem(features, targets, CLASSES)
    for fold in range(folds.count):
        losses = []
        for strength in strengths:
            logits = torch.full((90, CLASSES), torch.nan)
            for other in set(range(folds.count)) - {fold}:
                images = of_rows == other
                (found,) = problem.fit_without(strength, (images | (of_rows == fold))[None])
                logits[images] = problem.logits_of(found, images)
            losses.append(problem.losses(logits))
        chosen = strengths[choose_by("one_se", compare_strengths(problem, strengths, losses))]
        assert judged.strengths[fold] == chosen
        images = of_rows == fold
        (found,) = problem.fit_without(chosen, images[None])
        # The same number added to all logits of an image means nothing, and the solver leaves it open.
        assert torch.allclose(
            judged.probabilities()[images].float(), problem.logits_of(found, images).softmax(1), atol=2e-3
        )


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_of_a_fold_does_not_depend_on_any_label_in_it_not_even_by_the_strength(seed: int) -> None:
    features, targets = clusters(60, 20, spread=1.5, seed=seed)
    folds = make_folds(targets.tolist())
    # All fits are minimised together, to a tolerance: so strengths far apart, of which one is clearly the best.
    far_apart = (1.0, 0.1, 0.01)
    before = cross_validate(features, targets, CLASSES, folds, strengths=far_apart, rule="best")
    draw = torch.Generator().manual_seed(seed)
    for fold in range(folds.count):
        mine = torch.tensor(folds.of_rows) == fold
        other = torch.where(mine, torch.randint(CLASSES, targets.shape, generator=draw), targets)
        after = cross_validate(features, other, CLASSES, folds, strengths=far_apart, rule="best")
        assert after.strengths[fold] == before.strengths[fold]
        changed = (before.probabilities() - after.probabilities()).abs().amax(1)
        assert float(changed[mine].max()) < 0.02 < 0.2 < float(changed[~mine].max())


def test_the_same_numbers_give_the_same_bits_and_another_seed_other_folds() -> None:
    features, targets = clusters(60, 8, spread=1.0)
    first, again, other = (
        cross_validate(features, targets, CLASSES, make_folds(targets.tolist(), seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.logits, again.logits) and first.folds != other.folds


def test_few_images_are_judged_too_and_single_ones_are_not() -> None:
    features, targets = clusters(6, 4, spread=0.1)
    two = cross_validate(features, targets, CLASSES, make_folds(targets.tolist()))
    assert two.folds.count == 2 and bool(two.known.all()) and bool(two.right(targets).all())
    alone = torch.tensor([0, 0, 0, 1])
    judged = cross_validate(features[:4], alone, 2, make_folds(alone.tolist()))
    assert judged.known.tolist() == [True, True, True, False] and bool(judged.logits[3].isnan().all())
    assert not judged.right(alone)[3]
    nothing = cross_validate(features[:2], torch.tensor([0, 1]), 2, Folds((-1, -1), 0, (0, 1)))
    assert bool(nothing.logits.isnan().all()) and nothing.strengths == ()
