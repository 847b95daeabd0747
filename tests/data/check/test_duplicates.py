"""Copies are found by digest, whether these stand in a dictionary or in a column."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from zoo.data.check.duplicates import Copy, copies
from zoo.data.dataset import ImageFile
from zoo.data.digests import DigestColumn
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.specs.data import Split


@pytest.mark.parametrize("different", [1, 60, 10**9])
def test_a_column_of_digests_gives_the_groups_of_a_dictionary(different: int) -> None:
    draw = random.Random(different)
    names = [f"{draw.choice('ab')}/{number}.jpg" for number in range(300)]
    contents = {name: hashlib.sha256(str(draw.randrange(different)).encode()).hexdigest() for name in names}
    # Two digests that begin alike, and go on otherwise.
    contents[names[0]] = contents[names[1]][:40] + 24 * "0"
    manifest = ImageManifest.of_names(names)
    labels, order = np.array([name[0] == "b" for name in names]), np.random.default_rng(0).permutation(300)
    splits: dict[Split, ImageRows] = {
        split: ImageRows(manifest, rows, labels[rows], ("a", "b"))
        for split, rows in (("train", order[:200]), ("val", order[200:]))
    }
    column = DigestColumn(manifest)
    for name in names[:290]:  # the last are not known
        column[name] = contents[name]
    known = dict(list(contents.items())[:290])
    groups: dict[str, list[Copy]] = {}
    for split, files in splits.items():
        for file in files:
            if file.relative in known:
                groups.setdefault(known[file.relative], []).append(Copy(file.relative, split, file.label))
    wanted = [tuple(group) for group in groups.values() if len(group) > 1]
    tuples: dict[Split, tuple[ImageFile, ...]] = {split: tuple(files) for split, files in splits.items()}
    for given, digests in ((splits, column), (splits, known), (tuples, column), (tuples, known)):
        assert copies(given, digests) == wanted
    assert bool(wanted) == (different < 10**9)


def test_nothing_has_no_copies() -> None:
    manifest = ImageManifest.of_names([])
    assert copies({}, DigestColumn(manifest)) == copies({}, {}) == copies({"train": ()}, {}) == []
