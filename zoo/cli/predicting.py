"""`zoo predict`: every prediction goes out when it is made, so that memory stays flat however many images there are."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

from zoo import api
from zoo.artefact.classifier import BATCH, Prediction
from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.cli.run_display import RunDisplay
from zoo.data.paths import count_images, images_of
from zoo.errors import DataError, OptionError
from zoo.events import Note, Progress
from zoo.files import clear_write_errors, json_text, new_text
from zoo.printable import printable

STDIN = Path("-")
_ROWS = 1000
"""Of a table at a time: its columns are as wide as these need."""


class _Output(Protocol):
    """Where predictions go."""

    def write(self, predictions: Sequence[Prediction]) -> None: ...

    def close(self) -> None: ...


def predict_images(
    artefact: Path,
    images: Sequence[Path],
    *,
    top: int,
    csv_file: Path | None,
    device: str,
    precision: str | None,
    compile: bool,
    workers: int | None,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Print what is on the images. A bad file costs only itself; raises DataError at the end where there was one."""
    if STDIN in images and len(images) > 1:
        raise OptionError("'-', paths from standard input, goes alone; also given: other images.")
    total = None if STDIN in images else count_images(images)
    files = _lines() if total is None else images_of(images)
    done = bad = 0
    with contextlib.ExitStack() as stack:
        # First: one that cannot be written is found before the work.
        rows = stack.enter_context(_csv_rows(csv_file)) if csv_file is not None else None
        display = stack.enter_context(RunDisplay(verbosity, as_json=True))
        classifier = api.load(artefact, device=device, precision=precision, compile=compile, report=display.report)
        if classifier.fault:
            display.report(Note(text=classifier.fault, loud=True))

        def on_error(source: str, error: DataError) -> None:
            nonlocal bad
            bad += 1
            display.report(Note(text=f"Left out: {error}", loud=True))

        screen: _Output = _Json(display) if as_json else _Table(display)
        predictions = classifier.stream(files, top=top, workers=workers, on_error=on_error)
        stack.callback(predictions.close)  # type: ignore[attr-defined]
        while batch := list(islice(predictions, BATCH)):
            done += len(batch)
            screen.write(batch)
            if rows is not None:
                rows.write(batch)
            display.report(Progress(task="predict", done=done + bad, total=total))
        screen.close()
    if bad:
        raise DataError(f"{console.count(bad, 'file')} of {done + bad} could not be read; see above.")


def _lines() -> Iterator[Path]:
    """Paths from standard input, one a line, as they come."""
    for line in sys.stdin.buffer:
        if name := line.rstrip(b"\r\n"):
            yield Path(os.fsdecode(name))


class _Table:
    def __init__(self, display: RunDisplay) -> None:
        self._display = display
        self._rows: list[list[str]] = []
        self._titled = False

    def write(self, predictions: Sequence[Prediction]) -> None:
        self._rows += [
            [
                printable(each.source),
                each.label,
                f"{each.probability:.3f}",
                ", ".join(f"{name} {chance:.3f}" for name, chance in each.top[1:]),
            ]
            for each in predictions
        ]
        if len(self._rows) >= _ROWS:
            self.close()

    def close(self) -> None:
        if not self._rows:
            return
        columns = ["image", "label", "probability", "then"]
        table = console.table(None, columns, self._rows, right=("probability",))
        table.show_header = not self._titled
        with self._display.aside():
            console.show(console.out(), table)
        self._rows, self._titled = [], True


class _Json:
    """One list, an item written when it is known; it stays open where the work breaks off."""

    def __init__(self, display: RunDisplay) -> None:
        self._display = display
        self._written = False

    def write(self, predictions: Sequence[Prediction]) -> None:
        items = []
        for each in predictions:
            content = {
                "source": each.source,
                "label": each.label,
                "probability": each.probability,
                "top": [{"label": name, "probability": chance} for name, chance in each.top],
            }
            items.append("  " + json_text(content).rstrip().replace("\n", "\n  "))
        with self._display.aside():
            print(",\n" if self._written else "[\n", end="")
            print(",\n".join(items), end="", flush=True)
        self._written = True

    def close(self) -> None:
        with self._display.aside():
            print("\n]" if self._written else "[]")


class _Csv:
    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path = path
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["source", "label", "probability"])

    def write(self, predictions: Sequence[Prediction]) -> None:
        with clear_write_errors(self._path):
            self._writer.writerows(
                [printable(each.source), each.label, f"{each.probability:.6f}"] for each in predictions
            )


@contextlib.contextmanager
def _csv_rows(path: Path) -> Iterator[_Csv]:
    with new_text(path) as file:
        yield _Csv(path, file)
