"""Folds for cross-validation: stratified by class, with all views and copies of an image in one fold.

Unless a seed is given they follow from the labels and their order alone, not from a run's seed, so runs with several
seeds on the same images begin from the same head.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MOST_FOLDS = 5
"""Five folds leave four fifths of the images for each fit, and cost half of what ten do."""
_KEY = "folds"


@dataclass(frozen=True, slots=True)
class Folds:
    """Which fold each of N rows is held out in."""

    of_rows: tuple[int, ...]
    """The number of the fold in which each row is held out; -1 for a row that is in every training fold."""
    count: int
    """Number of folds; 0 where nothing can be held out."""
    alone: tuple[int, ...]
    """The classes with a single image (or copies of one), which stays in every training fold."""

    def held_out(self, fold: int) -> list[int]:
        """Return the indices of the rows that a fold holds out."""
        return [row for row, number in enumerate(self.of_rows) if number == fold]


def make_folds(
    labels: Sequence[int],
    groups: Sequence[Hashable] | None = None,
    *,
    most: int = MOST_FOLDS,
    seed: int | None = None,
) -> Folds:
    """Divide rows into folds.

    Every fold gets about the same number of images of each class. Every class with two images or more has one in the
    training part of every fold. There are fewer than `most` folds where even the largest class has fewer images.

    Args:
        labels: The class index of each row.
        groups: What each row is a picture of; rows with the same value are never in two folds. None: all differ. A
            group whose rows have several labels is dealt with its first one.
        most: The largest number of folds, at least 2.
        seed: Another seed gives other folds. None: the folds that follow from the labels alone.
    """
    named = range(len(labels)) if groups is None else groups
    classes: dict[int, list[Hashable]] = {}
    seen: set[Hashable] = set()
    for label, group in zip(labels, named, strict=True):
        if group not in seen:
            seen.add(group)
            classes.setdefault(label, []).append(group)
    groups_of: dict[int, set[Hashable]] = {}
    for label, group in zip(labels, named, strict=True):
        groups_of.setdefault(label, set()).add(group)
    alone = tuple(sorted(label for label, members in groups_of.items() if len(members) == 1))
    count = min(most, max((len(members) for members in classes.values()), default=0))
    if count < 2:
        return Folds((-1,) * len(labels), 0, alone)
    # Held out, the only image of a class would be judged by a fit that has never seen the class.
    fold_of = _dealt([(label, members) for label, members in sorted(classes.items()) if len(members) > 1], count, seed)
    # Groups with several labels were dealt with one of them, and may hold all that another class has.
    for _, members in sorted(groups_of.items()):
        folds = {fold_of.get(group) for group in members}
        if len(folds) == 1 and None not in folds:
            # The first in the order of the rows: a set of texts has another order in every process.
            del fold_of[next(group for group in named if group in members)]
    if not fold_of:
        count = 0
    return Folds(tuple(fold_of.get(group, -1) for group in named), count, alone)


def _dealt(classes: Sequence[tuple[int, list[Hashable]]], count: int, seed: int | None) -> dict[Hashable, int]:
    """Deal the groups of each class to the folds in turn. Each class goes on where the one before it ended."""
    fold_of: dict[Hashable, int] = {}
    key = _KEY if seed is None else f"{_KEY}/{seed}"
    for label, members in classes:
        order = list(range(len(members)))
        # A text as a seed is hashed alike in every process, unlike by `hash`.
        random.Random(f"{key}/{label}").shuffle(order)
        for index in order:
            # Begun anew with each class, the first folds would get the remainder of every class.
            fold_of[members[index]] = len(fold_of) % count
    return fold_of
