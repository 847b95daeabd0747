"""Folds: stratified, deterministic, and never with two pictures of one thing on both sides."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from zoo.probes.folds import MOST_FOLDS, make_folds


@pytest.mark.parametrize("sizes", [(50, 50), (20, 7, 3), (5, 5, 5), (2, 100), (3, 1, 2), (9, 1, 1, 1)])
def test_every_class_is_spread_over_the_folds_and_stays_in_every_training_part(sizes: tuple[int, ...]) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    folds = make_folds(labels)
    assert folds.count == min(MOST_FOLDS, max(sizes))
    assert folds.alone == tuple(label for label, size in enumerate(sizes) if size == 1)
    for label, size in enumerate(sizes):
        held_out = Counter(fold for fold, of in zip(folds.of_rows, labels, strict=True) if of == label)
        if size == 1:
            assert held_out == {-1: 1}
            continue
        assert -1 not in held_out
        assert max(held_out.values()) - min(held_out.get(fold, 0) for fold in range(folds.count)) <= 1
        assert max(held_out.values()) < size
    lengths = [len(folds.held_out(fold)) for fold in range(folds.count)]
    assert max(lengths) - min(lengths) <= 1


def test_pictures_of_one_thing_are_in_one_fold() -> None:
    labels = [0] * 12 + [1] * 12
    groups = [f"{row % 6} of {labels[row]}" for row in range(24)]
    folds = make_folds(labels, groups)
    assert folds.count == 5
    for group in set(groups):
        assert len({fold for fold, of in zip(folds.of_rows, groups, strict=True) if of == group}) == 1
    # Views of one image do not make it two.
    assert make_folds([0] * 6 + [1] * 4, ["a"] * 6 + ["b", "c", "b", "c"]).alone == (0,)


def test_folds_follow_from_labels_alone_and_are_shuffled() -> None:
    labels = [0] * 20 + [1] * 20
    assert make_folds(labels) == make_folds(labels)
    # Neighbouring files, such as frames of one film, do not take turns.
    assert make_folds(labels).of_rows[:20] != tuple(number % 5 for number in range(20))


def test_nothing_is_held_out_where_every_class_has_one_image() -> None:
    folds = make_folds([0, 1, 2])
    assert (folds.count, folds.of_rows, folds.alone) == (0, (-1, -1, -1), (0, 1, 2))


@pytest.mark.parametrize("seed", range(20))
def test_every_class_is_in_every_training_part_also_where_copies_have_several_labels(seed: int) -> None:
    draw = random.Random(seed)
    groups = [draw.randrange(12) for _ in range(40)]
    labels = [draw.randrange(5) for _ in range(40)]
    folds = make_folds(labels, groups, seed=seed)
    for label in set(labels):
        rows = [row for row, of in enumerate(labels) if of == label]
        assert (label in folds.alone) == (len({groups[row] for row in rows}) == 1)
        for fold in range(folds.count):
            assert any(folds.of_rows[row] != fold for row in rows), "a fit that has never seen the class"


def test_nothing_is_held_out_where_every_picture_is_all_that_some_class_has() -> None:
    folds = make_folds([0, 1, 0, 2], ["a", "a", "b", "b"])
    assert (folds.count, folds.of_rows, folds.alone) == (0, (-1,) * 4, (1, 2))


def test_a_class_all_of_whose_copies_have_another_label_too_is_alone() -> None:
    folds = make_folds([0, 0, 0, 1], ["a", "b", "c", "a"])
    assert folds.alone == (1,) and folds.of_rows[0] == folds.of_rows[3] == -1
    assert len(set(folds.of_rows[:3])) == 3, "the others are held out, each in another fold"
