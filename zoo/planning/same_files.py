"""Whether all processes of a run see the same files, before any of them trusts what another one read."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from zoo.data.dataset import Dataset, ImageFile, labels_of, names_of
from zoo.distributed.group import ProcessGroup
from zoo.errors import DataError, Refused
from zoo.specs.data import Split

SAMPLE = 64
"""Files whose content every process reads: all of them would be read as often as there are processes. Where another
one has other content, the process that reads it stops the run then: it knows the digest that the others know."""
_Listed = Mapping[Split, Mapping[str, str]]
"""Split -> name of a file -> name of its class."""


def refuse_other_files(dataset: Dataset, group: ProcessGroup) -> None:
    """Compare the files that all processes found: names, labels and splits of all, the content of some drawn ones.

    Raises Refused, naming the first difference.
    """
    every = group.gather(_digest(dataset))
    if len(set(every)) > 1:
        # Only now: names of millions of files are not held and sent for nothing.
        mine_and_theirs = group.gather(_listed(dataset))
        for rank, other in enumerate(mine_and_theirs):
            if difference := _first_difference(mine_and_theirs[0], other, rank):
                raise _refused(group, difference)
        raise _refused(group, "the same files, in another order")
    splits = list(dataset.splits.values())
    begins = list(accumulate(map(len, splits), initial=0))
    # A fixed seed, so that all processes draw the same files without asking one another.
    drawn = random.Random("files of all processes").sample(range(begins[-1]), min(SAMPLE, begins[-1]))
    part_of = {number: bisect_right(begins, number) - 1 for number in sorted(drawn)}
    # One by one: a list of all files would be an object for each of many.
    files = [splits[part][number - begins[part]] for number, part in part_of.items()]
    contents = group.gather([_content(file) for file in files])
    for rank, other_contents in enumerate(contents):
        for file, first, digest in zip(files, contents[0], other_contents, strict=True):
            if digest != first:
                raise _refused(group, f"process {rank} has other content in {file.relative} than process 0")


def _refused(group: ProcessGroup, difference: str) -> Refused:
    return Refused(
        f"The {group.count} processes of this run do not see the same data; nothing was trained: {difference}.\n"
        "Next: give all machines the same files under --data, and the same command."
    )


def _first_difference(
    one: Mapping[Split, Mapping[str, str]], other: Mapping[Split, Mapping[str, str]], rank: int
) -> str:
    for split in dict.fromkeys([*one, *other]):
        here, there = one.get(split, {}), other.get(split, {})
        counts = f"{len(here):,} images of {split} in process 0, {len(there):,} in process {rank}"
        for name in dict.fromkeys([*here, *there]):
            if name not in there:
                return f"{counts}, where {name} is missing"
            if name not in here:
                return f"{counts}, where {name} is not in process 0"
            if here[name] != there[name]:
                return f"{name} is {here[name]!r} in process 0, and {there[name]!r} in process {rank}"
    return ""


def _listed(dataset: Dataset) -> _Listed:
    return {
        split: {name: dataset.classes[label] for name, label in zip(names_of(files), labels_of(files), strict=True)}
        for split, files in dataset.splits.items()
    }


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for split, files in dataset.splits.items():
        for name, label in zip(names_of(files), labels_of(files), strict=True):
            digest.update(f"{split}\0{name}\0{dataset.classes[label]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _content(file: ImageFile) -> str:
    try:
        return hashlib.sha256(file.content()).hexdigest()
    except DataError as error:
        return str(error)


def examined_by(files: Sequence[ImageFile], group: ProcessGroup, block: int) -> Sequence[ImageFile]:
    """The share of the files that a process opens: those of the blocks whose features it computes later."""
    blocks = group.share(-(-len(files) // block))
    return files[blocks.start * block : blocks.stop * block]
