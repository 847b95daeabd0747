"""How a download goes, as the events of `zoo.events`."""

from __future__ import annotations

from collections.abc import Callable

from zoo import amounts
from zoo.events import Note, Report
from zoo.events import Progress as Done
from zoo.weights.download import Download, Progress


def announcing(report: Report) -> Callable[[Download], None]:
    """What `fetch` calls before the first byte."""

    def announce(coming: Download) -> None:
        size = amounts.size(coming.bytes) if coming.bytes else "unknown size"
        here = f", {amounts.size(coming.done)} of it are here from an earlier try" if coming.done else ""
        report(Note(text=f"Downloading {coming.filename} ({size}{here}) from {coming.host}"))

    return announce


def following(report: Report, task: str = "download") -> Progress:
    """What `fetch` calls as bytes arrive."""

    def progress(done: int, total: int | None) -> None:
        report(Done(task=task, done=done, total=total, unit="bytes"))

    return progress
