"""Images that are copies of one another: how many independent ones they are worth in an interval and in a test.

A classifier says the same of every copy. Counted as images of their own, copies make intervals too narrow and p-values
too small. So an interval takes the effective number of images (`zoo.evaluation.metrics.wilson_interval`), and a paired
test counts each picture once (`zoo.evaluation.significance.PairedOutcomes`). Shares stay those of all images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.text import counted


@dataclass(frozen=True, slots=True)
class CountedCopies:
    """How many copies there are among some images, and what all of these images are worth."""

    images: int
    """Images that have a copy among the others."""
    pictures: int
    """How many different pictures these images show."""
    effective_images: float
    """How many images that all differ would give intervals as wide as those of all images together."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def in_words(self, of: int, *, alike: str = "byte for byte") -> str:
        """Say what copies there are among `of` images, and what the intervals make of it; `alike`: how they are."""
        return (
            f"{self.images:,} of the {counted(of, 'image')} are copies of one another, {alike} "
            f"({counted(self.pictures, 'different picture')}), so the intervals are as wide as for "
            f"{counted(round(self.effective_images), 'image')} without copies. zoo data check names the copies."
        )


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Which of N images are copies of one another."""

    picture_of: NDArray[np.int64]
    """`picture_of[N]`: the number of the picture that each image shows, from 0; copies show the same one."""

    def sizes(self) -> NDArray[np.int64]:
        """How many images show each picture."""
        return np.bincount(self.picture_of)

    def counted(self) -> CountedCopies:
        """How many there are."""
        sizes = self.sizes()
        several = sizes[sizes > 1]
        return CountedCopies(int(several.sum()), len(several), self.effective())

    def effective(self) -> float:
        """The effective number of all images."""
        return self.effective_of(np.zeros_like(self.picture_of), 1)[0]

    def effective_of(self, groups: ArrayLike, count: int) -> list[float]:
        """Return the effective number of images of each of `count` groups, given `groups[N]`; 0 for an empty one.

        Where every picture i is there m_i times, it is (sum of m_i)^2 / (sum of m_i^2), as of weighted observations
        (Kish 1965, Survey Sampling, Wiley): a picture with m copies weighs m, and is one observation.
        """
        of_group = np.asarray(groups, np.int64)
        pictures = int(self.picture_of.max()) + 1
        # One number for each picture in a group; a table of all pairs would be mostly zeros.
        places, images = np.unique(of_group * pictures + self.picture_of, return_counts=True)
        squares = np.bincount(places // pictures, weights=images.astype(np.float64) ** 2, minlength=count)
        totals = np.bincount(of_group, minlength=count).astype(np.float64)
        effective: list[float] = np.divide(totals**2, squares, out=np.zeros(count), where=squares > 0).tolist()
        return effective


def copies_among(contents: Iterable[str]) -> Copies | None:
    """Find copies among images by digests of their contents, in their order; None where all images differ.

    An image whose digest is empty, for nobody knows it, is a copy of none.
    """
    numbers: dict[str, int] = {}
    pictures = 0
    picture_of = []
    for content in contents:
        number = numbers.setdefault(content, pictures) if content else pictures
        pictures += number == pictures
        picture_of.append(number)
    return None if pictures == len(picture_of) else Copies(np.array(picture_of, np.int64))
