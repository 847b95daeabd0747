"""A data folder checked: every file opened, the findings, the report."""

from __future__ import annotations

from pathlib import Path

from zoo.data.ahead import workers_of
from zoo.data.checking.findings import find_all
from zoo.data.checking.report import DataReport
from zoo.data.checking.survey import survey
from zoo.data.sources import find_data, read_found
from zoo.events import Progress, Report
from zoo.registry import Registry


def check(path: Path, *, seed: int, workers: int | None, report: Report, registry: Registry) -> DataReport:
    """See `zoo.check_data`."""

    def progress(done: int, total: int) -> None:
        report(Progress(task="check", done=done, total=total))

    threads = workers_of(workers)
    found = read_found(find_data(path, registry, report))
    seen = survey(found, seed=seed, workers=threads, progress=progress)
    return DataReport(
        path=str(path),
        classes=seen.classes,
        images={split: tuple(seen.counts(split)) for split in seen.splits},
        files=len(seen.facts),
        split_note=seen.drawn,
        findings=find_all(seen),
    )
