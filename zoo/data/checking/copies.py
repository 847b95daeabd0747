"""The same picture more than once, told by digests: in two splits, under two labels, or merely twice.

Pure functions of names and digests, light enough for every plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zoo.data.dataset import ImageFile
from zoo.source_listing import Split


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several files with the same picture."""

    relative: str
    split: Split
    label: int


def copies(splits: Mapping[Split, Sequence[ImageFile]], digests: Mapping[str, str]) -> list[tuple[Copy, ...]]:
    """Files with the same digest, in groups of two and more, in the order of the splits.

    `digests`: of what makes two files the same, by relative path; a file without one is left out.
    """
    groups: dict[str, list[Copy]] = {}
    for split, files in splits.items():
        for file in files:
            digest = digests.get(file.relative)
            if digest:
                groups.setdefault(digest, []).append(Copy(file.relative, split, file.label))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def across_splits(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """The groups that lie in more than one split."""
    return [group for group in groups if len({each.split for each in group}) > 1]


def under_two_labels(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """The groups that lie under more than one label."""
    return [group for group in groups if len({each.label for each in group}) > 1]


def within_a_split(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """What is there twice in one split, under one label."""
    found: list[tuple[Copy, ...]] = []
    for group in groups:
        places: dict[tuple[Split, int], list[Copy]] = {}
        for each in group:
            places.setdefault((each.split, each.label), []).append(each)
        found += [tuple(same) for same in places.values() if len(same) > 1]
    return found
