"""Every image of a data set opened once: what cannot be read, and the digests that name the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zoo.data.dataset import UNREADABLE_SHARE, Dataset, ImageFile
from zoo.data.decoded import DecodedFiles
from zoo.data.lost_values import Loss
from zoo.data.prefetch import resolve_workers
from zoo.data.store import ImageStore
from zoo.distributed.group import current
from zoo.errors import DataError
from zoo.events import Progress, Report
from zoo.planning.resolve import Resolved
from zoo.planning.same_files import examined_by, refuse_other_files
from zoo.specs.data import Split
from zoo.text import some

BLOCK_OF_IMAGES = 128
"""Images that one process opens at a time: those of a block of cached features."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A data set whose every image was opened."""

    dataset: Dataset
    """Without the images that cannot be read; they are among its skipped files."""
    contents: Mapping[str, str]
    """SHA-256 of each file, by relative path."""
    losses: Mapping[str, Loss]
    """What decoding destroyed, by relative path, where little is left of the values in a file."""

    @property
    def digest(self) -> str:
        """Names the data: every file's content, label and split."""
        return self.dataset.digest(self.contents)


def open_store(resolved: Resolved, *, trains: bool = False) -> ImageStore:
    """The store that decodes this request's images; for one that `trains`, also onto the disk, and when needed."""
    workers = resolve_workers(resolved.request.workers, processes=current().processes_here)
    preprocessing = resolved.outline.preprocessing
    if not trains:
        return ImageStore(preprocessing, workers=workers)
    return ImageStore(preprocessing, workers=workers, disk_budget=None, known=DecodedFiles(preprocessing))


def examine(dataset: Dataset, store: ImageStore, report: Report) -> Examined:
    """Open every image, reporting progress. Raises DataError where over 1 % of the images, or all of a class, cannot be
    read."""
    files = [file for split in dataset.splits.values() for file in split]

    def progress(done: int) -> None:
        report(Progress(task="decode", done=done, total=len(files)))

    contents, faults = _examine(dataset, store, files, progress)
    readable = dataset.without(faults)
    _refuse_unreadable(dataset, readable, faults)
    losses = {file.relative: loss for file in files if (loss := store.loss_of(file)) is not None}
    return Examined(readable, contents, losses)


def _examine(
    dataset: Dataset, store: ImageStore, files: Sequence[ImageFile], progress: Callable[[int], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """(digests, faults) by relative path; where several processes carry out a run, each opens its share of the files.

    The share is that of the blocks whose features a process computes later, so that it decodes them once.
    """
    group = current()
    if not group.several:
        return store.examine(files, progress=progress)
    refuse_other_files(dataset, group)
    own = [file for split in dataset.splits.values() for file in examined_by(split, group, BLOCK_OF_IMAGES)]
    digests, faults = store.examine(own, progress=lambda done: progress(min(done * group.count, len(files))))
    found = group.gather((digests, faults, store.findings(own)))
    for of_rank, of_rank_faults, findings in found:
        digests |= of_rank
        faults |= of_rank_faults
        store.learn(*findings)
    # In the order in which one process alone would have found them.
    ordered = [file.relative for file in files]
    return {name: digests[name] for name in ordered}, {name: faults[name] for name in ordered if name in faults}


def _refuse_unreadable(dataset: Dataset, readable: Dataset, faults: dict[str, str]) -> None:
    listed = "\n".join(f"  {relative}: {detail}" for relative, detail in sorted(faults.items())[:10])
    more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
    checked: tuple[Split, ...] = ("train", "val")
    for split in checked:
        # A sample of a data set has no val, and may lack a class: what was there before is what counts.
        before, left = ({file.label for file in each.splits.get(split, ())} for each in (dataset, readable))
        gone = [dataset.classes[label] for label in sorted(before - left)]
        if gone:
            raise DataError(f"No readable image is left of {some(gone)} in {split}:\n{listed}{more}")
    total = sum(len(files) for files in dataset.splits.values())
    if len(faults) > UNREADABLE_SHARE * total:
        raise DataError(
            f"{len(faults)} of {total} images cannot be read; over {UNREADABLE_SHARE:.0%} is a fault of the data:\n"
            f"{listed}{more}\nNext: repair or remove these files."
        )
