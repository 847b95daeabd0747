"""Check a data set: open every file, survey classes and splits as a run would make them, report the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.data.check.facts import FileFacts, Survey, read_facts
from zoo.data.check.findings import find_all
from zoo.data.check.report import DataReport
from zoo.data.dataset import ImageFile, natural_key
from zoo.data.prefetch import prefetch, resolve_workers
from zoo.data.sources import find_data, read_unchecked
from zoo.data.splits import (
    SPLITS,
    UncheckedData,
    image_files,
    no_images_message,
    no_train_message,
    one_class_message,
    split_note,
    split_stratified,
)
from zoo.errors import DataError
from zoo.events import Progress, Report
from zoo.registry.registry import Registry
from zoo.specs.data import FOLDER, Skipped, Split

PASSED_OVER = ("hidden", "system file")
"""The reasons for which a file is left out that is no part of the data set: it is counted, and not opened."""


def check(path: Path, *, seed: int, workers: int | None, report: Report, registry: Registry) -> DataReport:
    """Check the data set at `path`, which is `PATH` or `NAME:PATH`: see `zoo.check_data`."""

    def progress(done: int, total: int) -> None:
        report(Progress(task="check", done=done, total=total))

    def compared(done: int, total: int) -> None:
        report(Progress(task="compare hashes", done=done, total=total, unit="hashes"))

    threads = resolve_workers(workers)
    location = find_data(path, registry, report)
    data = read_unchecked(location, report=report)
    result = survey(data, seed=seed, workers=threads, progress=progress)
    return DataReport(
        path=location.argument,
        classes=result.classes,
        images={split: tuple(result.counts(split)) for split in result.splits},
        files=len(result.facts),
        split_note=result.split_note,
        notes=result.notes,
        passed_over=dict(Counter(skipped.reason for skipped in result.passed_over)),
        findings=find_all(result, compared),
    )


def survey(data: UncheckedData, *, seed: int, workers: int, progress: Callable[[int, int], None]) -> Survey:
    """Open every file; `progress` gets (done, total). Raises DataError if the data are no data set at all."""
    classes, splits, note = _splits(data, seed)
    unused = [skipped for skipped in data.skipped if skipped.reason not in PASSED_OVER]
    used = [file for files in splits.values() for file in files]
    facts = _read_all(used + _unused_files(data, unused), workers, progress)
    return Survey(
        path=data.path,
        classes=classes,
        splits=splits,
        facts={file.relative: facts[file.relative] for file in used},
        unused=tuple((file, facts.get(file.relative, FileFacts(relative=file.relative))) for file in unused),
        split_note=note,
        notes=data.notes,
        passed_over=tuple(skipped for skipped in data.skipped if skipped.reason in PASSED_OVER),
    )


def _splits(data: UncheckedData, seed: int) -> tuple[tuple[str, ...], dict[Split, Sequence[ImageFile]], str]:
    """Classes, splits and the note on a drawn val as `finetune` makes them, also where it would refuse them."""
    # A class that train lacks counts too: it is a finding here, where a run stops at the first error.
    classes = tuple(sorted({name for by_class in data.splits.values() for name in by_class}, key=natural_key))
    splits: dict[Split, Sequence[ImageFile]] = {split: image_files(data, split, classes) for split in data.splits}
    if not any(splits.values()):
        raise DataError(no_images_message(data))
    if "train" not in splits:
        raise DataError(no_train_message(data))
    if len(classes) < 2:
        raise DataError(one_class_message(data, classes[0]))
    note = ""
    if "val" not in splits:
        splits["train"], splits["val"] = split_stratified(splits["train"], classes, seed)
        note = split_note(seed)
    return classes, {split: splits[split] for split in SPLITS if split in splits}, note


def _unused_files(data: UncheckedData, unused: list[Skipped]) -> list[ImageFile]:
    # A data source says why it left out a file, but not how to read it.
    return [ImageFile(data.path / file.relative, file.relative, 0) for file in unused if data.reader == FOLDER]


def _read_all(files: list[ImageFile], workers: int, progress: Callable[[int, int], None]) -> dict[str, FileFacts]:
    facts: dict[str, FileFacts] = {}
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="zoo-check") as pool:
        for file_facts in prefetch(pool, read_facts, files, pending=4 * workers):
            facts[file_facts.relative] = file_facts
            progress(len(facts), len(files))
    return facts
