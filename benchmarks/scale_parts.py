"""What zoo does with the list of a data set, at any number of images that nobody has to have: names, digests and hashes
are made up, everything else is zoo's own.

    python -m benchmarks.scale_parts IMAGES

Each part prints a line of JSON: its name, its seconds, and the most memory that the process held while it ran, what the
parts before it left included, as in a run. The first line is the process before it has any image.
`python -m benchmarks.scale` starts it and makes the table.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from zoo.data.check.duplicates import copies
from zoo.data.check.similar import Groups, join_alike
from zoo.data.dataset import Dataset
from zoo.data.digests import DigestColumn
from zoo.data.listed_images import ListedImages
from zoo.data.listing import to_unchecked
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.data.splits import UncheckedData, to_dataset
from zoo.frozen.outputs import BLOCK
from zoo.specs.data import Split
from zoo.specs.recipe import Sampling
from zoo.storage.feature_cache import name_of
from zoo.training.seeding import epoch_batches, epoch_key

Found = TypeVar("Found")
CLASSES = 1000
SAMPLINGS: tuple[Sampling, ...] = ("shuffled", "balanced")
IMPORTED = "zoo and torch imported"
CHUNK, BATCH = 32, 64
"""Images that go through a backbone at a time, and that a step is taken on: zoo's own defaults."""
_COPIED, _ALIKE = 0.001, 0.2
"""Shares of images that are copies of another file, and that look like another one."""
_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTaken:
    """What one part took."""

    part: str
    images: int
    seconds: float
    cpu_seconds: float
    """Of its one thread: what other work on the machine changes least."""
    peak_mb: float
    """Most memory that the process held during the part, in MB of 10^6 bytes."""


def parts(images: int) -> Iterator[PartTaken]:
    """Carry out all parts, each with what those before it made. Raises AssertionError where one's result is wrong."""
    measured = _Measured(images)
    measured.take(IMPORTED, lambda: None)
    listed = measured.take("list, as columns", _listed, images)
    unchecked = measured.take("order by class, refuse repeated names", _unchecked, listed)
    del listed
    dataset = measured.take("draw val, a fifth of each class", _dataset, unchecked, images)
    digests = measured.take("store digests as they come", _digests, unchecked.manifest)
    measured.take("digest of the data set", dataset.digest, digests)
    measured.take("copies, by digest", _copies, dataset, digests)
    hashes = alike_hashes(images)
    measured.take("near-duplicates, groups of them", _groups, hashes)
    del hashes
    measured.take("names of the feature cache's blocks", _blocks, dataset, digests)
    labels = list(_rows(dataset, "train").labels())
    for sampling in SAMPLINGS:
        order = measured.take(f"order of an epoch, {sampling}", _order, sampling, labels)
        assert sum(map(len, order)) == len(labels)
        del order
    yield from measured.taken


class _Measured:
    def __init__(self, images: int) -> None:
        self.taken: list[PartTaken] = []
        self._images = images

    def take(self, part: str, work: Callable[..., Found], *given: object) -> Found:
        """Do the work, and keep what it took."""
        forget_peak()
        began, cpu = time.perf_counter(), time.process_time()
        found = work(*given)
        taken = PartTaken(
            part=part,
            images=self._images,
            seconds=round(time.perf_counter() - began, 3),
            cpu_seconds=round(time.process_time() - cpu, 3),
            peak_mb=round(peak_mb(), 1),
        )
        self.taken.append(taken)
        print(f"  {self._images:,}: {part}: {taken.seconds:.1f} s", file=sys.stderr, flush=True)
        return found


def _listed(images: int) -> ListedImages:
    """A listing of so many names, folder by folder, as ImageNet has them."""
    classes = tuple(f"n{number:08d}" for number in range(CLASSES))
    label = (np.arange(images) * CLASSES // images).astype(np.int32)

    def names() -> Iterator[str]:
        for start in range(0, images, _AT_ONCE):
            for row, code in enumerate(label[start : start + _AT_ONCE].tolist(), start):
                yield f"{classes[code]}/{classes[code]}_{row}.JPEG"

    named = ImageManifest.of_names(names(), Path("images"))
    manifest = replace(named, given=label, given_names=classes)
    return ListedImages(manifest=manifest, splits=(None,), split=np.zeros(images, np.int32))


def _unchecked(listed: ListedImages) -> UncheckedData:
    return to_unchecked(listed, source="made up", path=Path("images"), reader="made/up")


def _dataset(unchecked: UncheckedData, images: int) -> Dataset:
    dataset = to_dataset(unchecked, seed=0)
    assert sum(map(sum, dataset.counts().values())) == images
    return dataset


def _digests(manifest: ImageManifest) -> DigestColumn:
    """Random digests, some of them twice, put in block by block."""
    column, draw = DigestColumn(manifest), np.random.default_rng(0)
    for start in range(0, len(manifest), _AT_ONCE):
        block = np.frombuffer(draw.bytes(32 * min(_AT_ONCE, len(manifest) - start)), np.uint8).reshape(-1, 32).copy()
        repeated = int(len(block) * _COPIED)
        block[:repeated] = block[len(block) - repeated :]
        column.put(np.arange(start, start + len(block)), block)
    return column


def _copies(dataset: Dataset, digests: DigestColumn) -> int:
    found = len(copies(dataset.splits, digests))
    images = len(digests.manifest)
    assert found == sum(int(min(_AT_ONCE, images - at) * _COPIED) for at in range(0, images, _AT_ONCE))
    return found


def alike_hashes(images: int) -> NDArray[np.uint64]:
    """Hashes of pictures, a fifth of which look like another one: up to six bits differ; every fourth is the same."""
    draw = np.random.default_rng(1)
    alike = int(images * _ALIKE)
    hashes = draw.integers(0, 1 << 64, images, dtype=np.uint64)
    copied = hashes[:alike].copy()
    for turn in range(6):
        bit = np.uint64(1) << draw.integers(0, 64, alike, dtype=np.uint64)
        copied = np.where((np.arange(alike) % 4 > 0) & (draw.random(alike) < (turn + 1) / 6), copied ^ bit, copied)
    hashes[images - alike :] = copied
    return hashes


def _groups(hashes: NDArray[np.uint64]) -> int:
    groups = Groups(len(hashes))
    join_alike(groups, np.arange(len(hashes)), hashes)
    numbers = groups.numbers()
    alike = int(len(hashes) * _ALIKE)
    assert np.array_equal(numbers[:alike], numbers[len(hashes) - alike :]), "each is in the group of what it copies"
    return int(numbers.max()) + 1


def _blocks(dataset: Dataset, digests: DigestColumn) -> int:
    """The name of every block of features, which is found in the cache by it."""
    found = set()
    for split in dataset.splits:
        files, size = _rows(dataset, split), BLOCK * CHUNK
        for start in range(0, len(files), size):
            found.add(name_of([f"plain, {CHUNK} at a time", *digests.of(files[start : start + size])]))
    return len(found)


def _order(sampling: Sampling, labels: Sequence[int]) -> Sequence[Sequence[int]]:
    return epoch_batches(sampling, labels, BATCH, key=epoch_key(0, "head", 1))


def _rows(dataset: Dataset, split: Split) -> ImageRows:
    files = dataset.splits[split]
    assert isinstance(files, ImageRows)
    return files


def forget_peak() -> None:
    """Let the process's peak of memory begin again, where Linux allows it; else it is that since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float:
    """Most memory that this process held since `forget_peak`, in MB of 10^6 bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for taken in parts(int(sys.argv[1])):
        print(json.dumps(asdict(taken)))


if __name__ == "__main__":
    main()
