"""Images of a data set opened before they are used: what cannot be read, and the digests that name the data.

A run opens all of them before anything is trained. A plan of many images opens a part, drawn by seed, and says so; a
run then shows that plan first and opens the rest after it.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, islice
from types import MappingProxyType
from typing import NoReturn

from zoo.data.ahead import take_over
from zoo.data.dataset import UNREADABLE_SHARE, Dataset, ImageFile, names_of
from zoo.data.decoded import DecodedFiles
from zoo.data.drawn_part import draw_part
from zoo.data.file_index import FileIndex
from zoo.data.lost_values import Loss
from zoo.data.prefetch import resolve_workers
from zoo.data.store import DEFAULT_BUDGET, ImageStore
from zoo.data.stored_order import stored_order
from zoo.distributed.group import ProcessGroup, current
from zoo.errors import DataError
from zoo.events import Progress, Report
from zoo.planning.resolve import Resolved
from zoo.planning.same_files import examined_by, refuse_other_files
from zoo.specs.data import Split
from zoo.specs.plan import ExaminedPlan
from zoo.text import some

PART_DIGEST = "part:"
"""How a digest begins that does not name the data: it covers the bytes of a part, and of the rest names and sizes."""
_TOLD = 100_000
"""Files whose sizes are looked at between two reports of progress: about a second."""
AT_ONCE = 2_000
"""Files after which what was found is looked at, so that a run on bad data ends early."""
BLOCK_OF_IMAGES = 128
"""Images that one process opens at a time: those of a block of cached features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """A data set, and what is known of its images that were opened."""

    dataset: Dataset
    """Without the images that cannot be read; they are among its skipped files."""
    contents: Mapping[str, str]
    """SHA-256 of each file that was opened, by relative path."""
    losses: Mapping[str, Loss]
    """What decoding destroyed, by relative path, where little is left of the values in a file."""
    opened: Mapping[Split, Sequence[ImageFile]]
    """The images of each split that were opened and can be read."""
    digest: str
    """Names the data: every file's content, label and split. Of a part it begins with `PART_DIGEST`."""
    part: ExaminedPlan | None = None
    """How many images were drawn and opened of how many; None: all."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with each file that cannot be read, by relative path."""

    @property
    def unreadable(self) -> int:
        """How many of the images that were drawn, or of all, cannot be read."""
        return self.part.images - sum(map(len, self.opened.values())) if self.part else len(self.faults)

    @property
    def scale(self) -> float:
        """How many times as many images there are as were opened."""
        return self.part.of / self.part.images if self.part else 1.0


def open_store(resolved: Resolved, *, trains: bool, shown: bool, share: float = 1.0) -> ImageStore:
    """The store that decodes this request's images.

    Args:
        resolved: What the request names.
        trains: Whether a run follows: what memory does not hold is kept on the disk, and what was decoded by an earlier
            run is decoded when needed.
        shown: Whether nothing but the plan follows: no image is kept, and what was examined before is not read again.
        share: Of the images that are examined, for measuring on them as if all were: they get this share of the memory.
    """
    workers = resolve_workers(resolved.request.workers, processes=current().processes_here)
    preprocessing = resolved.outline.preprocessing
    if not (trains or shown):
        return ImageStore(preprocessing, workers=workers, budget=int(DEFAULT_BUDGET * share))
    # A plan alone needs what is known of the images, and none of their pixels.
    budgets = {"budget": 0, "disk_budget": 0} if shown else {"budget": DEFAULT_BUDGET, "disk_budget": None}
    known, index = DecodedFiles(preprocessing), FileIndex()
    ahead = None if shown else take_over(preprocessing)
    return ImageStore(preprocessing, workers=workers, known=known, index=index, ahead=ahead, **budgets)


def examine(dataset: Dataset, store: ImageStore, report: Report) -> Examined:
    """Open every image, reporting progress. Raises DataError where over 1 % of the images, or all of a class, cannot be
    read."""
    store.expect(dataset)
    group = current()
    if group.several:
        return _found(dataset, store, _open_in_shares(dataset, store, report, group))
    return _found(dataset, store, _open_until_too_many(_as_stored(dataset), dataset, store, report))


def _open_in_shares(dataset: Dataset, store: ImageStore, report: Report, group: ProcessGroup) -> dict[str, str]:
    """Open this process's share of the files and learn what the others found of theirs: faults by relative path.

    The share is that of the blocks whose features a process computes later, so that it decodes them once.
    """
    # First, as from here on each process trusts what the others read.
    refuse_other_files(dataset, group)
    total = _count(dataset)
    shares = {split: examined_by(files, group, BLOCK_OF_IMAGES) for split, files in dataset.splits.items()}
    own = replace(dataset, splits=shares)
    left = _as_stored(own)
    opened, found = 0, dict[str, str]()

    def progress(done: int) -> None:
        # Nobody is asked how far the others are: their shares are as large, so they are about as far.
        report(Progress(task="decode", done=min(opened + done * group.count, total), total=total))

    try:
        # As many times in each process: shares differ, and all have to meet.
        times = range(0, max(group.gather(_count(own))), AT_ONCE)
        for _ in times:
            files = list(islice(left, AT_ONCE))
            _, faults = store.examine(files, progress=progress, remember=False)
            for count, faults_of_rank in group.gather((len(files), faults)):
                opened += count
                found |= faults_of_rank
            _refuse_early(found, opened, total)
    finally:
        store.remember()
    left = _files(own.splits)
    # Some at a time: sent are texts, which take many times the memory in which the store keeps them.
    for _ in times:
        for findings in group.gather(store.findings(islice(left, AT_ONCE))):
            store.learn(*findings)
    # In the order in which one process alone would have found them.
    return {file.relative: found[file.relative] for file in _files(dataset.splits) if file.relative in found}


def examine_part(
    dataset: Dataset, store: ImageStore, report: Report, *, most: int, seed: int, recall: bool = False
) -> Examined:
    """Open `most` images, drawn by `seed` over splits and classes; all, where there are no more.

    Files without a byte are opened wherever they are: their size tells that they cannot be read.

    With `recall`, for a plan that nothing follows, images that were opened before and have not changed count as opened:
    where no more than `most` others are left, those are opened, and all are known.

    Raises:
        DataError: What was found is enough to refuse the data, as `examine` does; or no training image that was drawn
            can be read.
    """
    store.expect(dataset)
    total = _count(dataset)
    others = _not_recalled(dataset, store, most) if recall else None
    if total <= most:
        others = list(_files(dataset.splits)) if others is None else others
    if others is not None:
        _, faults = _open(others, store, report, total=len(others))
        return _found(dataset, store, faults)
    drawn = draw_part(dataset, most, seed)
    names = {file.relative for file in _files(drawn)}
    sizes = _sizes(dataset, report)
    empty = [file for file, size in zip(_files(dataset.splits), sizes, strict=True) if not size]
    wanted = [*_files(drawn), *(file for file in empty if file.relative not in names)]
    if recall:
        wanted = store.recall([file for file in wanted if not store.is_examined(file)])
    _, faults = _open(wanted, store, report, total=len(wanted))
    examined = _found(dataset, store, faults, drawn, sizes)
    if not examined.opened["train"]:
        _refuse(f"None of {len(drawn['train']):,} training images, drawn from {total:,} images, can be read", faults)
    return examined


def examine_rest(dataset: Dataset, part: Examined, store: ImageStore, report: Report) -> Examined:
    """Open the images of a data set that are not in the `part` that was opened before: what `examine` returns.

    It ends as soon as too many cannot be read, and what was found until then is remembered for the next run.

    Raises:
        DataError: As `examine`.
    """
    if part.part is None:
        return part
    rest = (file for file in _as_stored(dataset) if not store.is_examined(file))
    opened = sum(map(store.is_examined, _files(dataset.splits)))
    return _found(dataset, store, _open_until_too_many(rest, dataset, store, report, opened, part.faults))


def _open_until_too_many(
    files: Iterator[ImageFile],
    dataset: Dataset,
    store: ImageStore,
    report: Report,
    opened: int = 0,
    known: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Open files of a data set, of which `opened` are, with the faults `known`: all faults, by relative path."""
    total, faults = _count(dataset), dict(known)
    try:
        while some_files := list(islice(files, AT_ONCE)):
            opened, found = _open(some_files, store, report, total=total, done=opened, remember=False)
            faults |= found
            _refuse_early(faults, opened, total)
    finally:
        # Also where it is refused or interrupted: the next run need not open these again.
        store.remember()
    return faults


def _open(
    files: Iterable[ImageFile],
    store: ImageStore,
    report: Report,
    *,
    total: int,
    done: int = 0,
    remember: bool = True,
) -> tuple[int, dict[str, str]]:
    """Open files, of `total` of which `done` are: (how many are now, faults by relative path)."""
    listed = list(files)

    def progress(opened: int) -> None:
        report(Progress(task="decode", done=done + opened, total=total))

    _, faults = store.examine(listed, progress=progress, remember=remember)
    return done + len(listed), faults


def _not_recalled(dataset: Dataset, store: ImageStore, most: int) -> list[ImageFile] | None:
    """The images that the store does not recall; None where they are more than `most`, and not all were looked for."""
    files, others = _files(dataset.splits), []
    while some_files := list(islice(files, AT_ONCE)):
        others += store.recall(some_files)
        if len(others) > most:
            return None
    return others


def _found(
    dataset: Dataset,
    store: ImageStore,
    faults: dict[str, str],
    drawn: Mapping[Split, Sequence[ImageFile]] | None = None,
    sizes: Sequence[int] = (),
) -> Examined:
    """What is known of a data set of which all images, or those `drawn`, were opened. `sizes`: of all files, in bytes.

    Raises DataError, as `examine`.
    """
    readable = dataset
    if faults:
        readable = dataset.without(faults)
        among = "" if drawn is None else f", among {_count_files(drawn):,} that were opened"
        _refuse_unreadable(dataset, readable, faults, among)
    opened: Mapping[Split, Sequence[ImageFile]] = readable.splits
    part = None
    if drawn is not None:
        opened = {split: [file for file in files if file.relative not in faults] for split, files in drawn.items()}
        part = ExaminedPlan(images=_count_files(drawn), of=_count(dataset))
    contents, lost = store.contents(opened.values()), store.losses()
    return Examined(
        dataset=readable,
        contents=contents,
        losses={name: lost[name] for files in opened.values() if lost for name in names_of(files) if name in lost},
        opened=opened,
        digest=readable.digest(contents) if part is None else _digest_of_part(dataset, contents, sizes),
        part=part,
        faults=faults,
    )


def _digest_of_part(dataset: Dataset, contents: Mapping[str, str], sizes: Sequence[int]) -> str:
    digest = hashlib.sha256("\0".join(dataset.classes).encode())
    size = iter(sizes)  # of all files, in the order of the loops below
    for split, files in dataset.splits.items():
        for file in files:
            # The size stands for the content of a file that was not opened.
            known = contents.get(file.relative, ""), next(size)
            digest.update(f"\n{split}\0{file.relative}\0{file.label}\0{known[0] or known[1]}".encode())
    return PART_DIGEST + digest.hexdigest()


def _as_stored(dataset: Dataset) -> Iterator[ImageFile]:
    """All images, in the order in which shards hold them, where there are shards.

    Some thousand images of a class lie in all of the shards: these would be walked through for every few thousand.
    """
    order = stored_order(_files(dataset.splits))
    if order is None:
        yield from _files(dataset.splits)
        return
    splits = list(dataset.splits.values())
    begins = list(accumulate(map(len, splits), initial=0))
    for number in order:
        split = bisect_right(begins, number) - 1
        yield splits[split][number - begins[split]]


def _files(splits: Mapping[Split, Sequence[ImageFile]]) -> Iterator[ImageFile]:
    return chain.from_iterable(splits.values())


def _count(dataset: Dataset) -> int:
    return _count_files(dataset.splits)


def _count_files(splits: Mapping[Split, Sequence[ImageFile]]) -> int:
    return sum(map(len, splits.values()))


def _sizes(dataset: Dataset, report: Report) -> Sequence[int]:
    """The sizes of all files in order, 8 bytes each; of many, progress is reported."""
    sizes, total = array("q"), _count(dataset)
    for file in _files(dataset.splits):
        sizes.append(_size(file))
        if len(sizes) % _TOLD == 0 or len(sizes) == total > _TOLD:
            report(Progress(task="look at sizes", done=len(sizes), total=total, unit="files"))
    return sizes


def _size(file: ImageFile) -> int:
    """The bytes of an image's file; -1 where it is gone, -2 for an image that has no file of its own."""
    if file.reader is not None:
        return -2
    try:
        return file.path.stat().st_size
    except (OSError, ValueError):
        return -1


def _refuse_unreadable(dataset: Dataset, readable: Dataset, faults: dict[str, str], among: str) -> None:
    # Not test, which nothing is learned from or chosen by: it may lack classes from the beginning.
    checked: tuple[Split, ...] = ("train", "val")
    for split in checked:
        # A sample of a data set has no val, and may lack a class: what was there before is what counts.
        before, left = ({file.label for file in each.splits.get(split, ())} for each in (dataset, readable))
        gone = [dataset.classes[label] for label in sorted(before - left)]
        if gone:
            _refuse(f"No readable image is left of {some(gone)} in {split}", faults, step=False)
    total = _count(dataset)
    if len(faults) > UNREADABLE_SHARE * total:
        _refuse(_too_many(faults, total, among), faults)


def _refuse_early(faults: Mapping[str, str], opened: int, total: int) -> None:
    """Raise DataError where too many images cannot be read before all were opened."""
    # A share of all images, not of those opened so far: two bad ones among the first hundred are no reason yet. Once
    # all are opened, `_found` decides, which also knows of classes without any readable image.
    if len(faults) > UNREADABLE_SHARE * total and opened < total:
        _refuse(_too_many(faults, total, f", among the first {opened:,} that were opened"), dict(faults))


def _too_many(faults: Mapping[str, str], total: int, among: str = "") -> str:
    return f"{len(faults)} of {total} images cannot be read{among}; over {UNREADABLE_SHARE:.0%} is a fault of the data"


def _refuse(what: str, faults: Mapping[str, str], *, step: bool = True) -> NoReturn:
    listed = "\n".join(f"  {relative}: {detail}" for relative, detail in sorted(faults.items())[:10])
    more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
    raise DataError(f"{what}:\n{listed}{more}" + ("\nNext: repair or remove these files." if step else ""))
