"""`zoo predict`: every prediction goes out as soon as it is made, so that memory stays flat for many images."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import zoo
from zoo.artefact.classifier import BATCH_SIZE, Prediction
from zoo.cli import document
from zoo.cli.display import RunDisplay
from zoo.cli.options import Inference
from zoo.data.decode import meant_image
from zoo.data.paths import ImageCount, count_images, images_of
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.errors import DataError, OptionError
from zoo.evaluation.predictions import COLUMNS as JUDGED
from zoo.events import Note, Progress
from zoo.process import drop_stdout
from zoo.storage.atomic import clear_write_errors, json_text, new_text, try_file
from zoo.storage.csv_lines import CsvLines, refuse_foreign
from zoo.text import printable

STDIN = Path("-")
COLUMNS = "source", "label", "probability"
"""The first columns of the CSV file."""
_HINTS = 5
"""Files that are not there for which the nearest name is looked for, among all in their folder."""
TABLE_ROWS = 1000
"""Rows that are laid out and printed at a time: a table's widths need all of its rows in memory."""


class PredictionWriter(Protocol):
    """Where predictions go."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write some more."""

    def close(self) -> None:
        """Finish; not called where the work breaks off."""


def predict_images(
    artefact: Path,
    images: Sequence[Path],
    inference: Inference,
    *,
    top: int,
    csv_file: Path | None,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Print a prediction for every image, and write them to `csv_file` too.

    A file that cannot be read or classified costs only itself. Raises DataError at the end if there was one,
    OptionError for paths that cannot go with standard input.
    """
    files, count = _name_files(images, name_all=verbosity.verbose)
    total = count.images if count else None
    predicted = left_out = 0
    with contextlib.ExitStack() as stack:
        # The CSV comes first: a path that cannot be written is found before the work.
        if csv_file is not None:
            try_file(csv_file)
            refuse_foreign(csv_file, COLUMNS, JUDGED)
        csv_writer = (
            CsvWriter(csv_file, stack.enter_context(new_text(csv_file)), views=inference.views)
            if csv_file is not None
            else None
        )
        # Bars and notes on stderr even without --json, so that stdout has the predictions alone.
        display = stack.enter_context(RunDisplay(verbosity, as_json=True))
        classifier = zoo.load(
            artefact,
            device=inference.device,
            precision=inference.precision,
            compile=inference.compile,
            views=inference.views,
            on_event=display.report,
        )
        for text in _warnings(count, classifier.fault):
            display.report(Note(text=text, loud=True))

        def on_error(source: str, error: DataError) -> None:
            nonlocal left_out
            left_out += 1
            hint = meant_image(error) if left_out <= _HINTS else ""
            display.report(Note(text=f"Left out: {error}{hint}", loud=True))

        screen: PredictionWriter = JsonWriter(display) if as_json else TableWriter(display)
        predictions = classifier.stream(files, top=top, workers=inference.workers, on_error=on_error)
        # On an error, decoding threads end before the display does.
        stack.callback(predictions.close)  # type: ignore[attr-defined]
        # As many as are computed together: what was computed is printed at once.
        while batch := list(islice(predictions, BATCH_SIZE)):
            predicted += len(batch)
            with _reader_may_leave(csv_writer is not None):
                screen.write(batch)
            if csv_writer is not None:
                csv_writer.write(batch)
            display.report(Progress(task="predict", done=predicted + left_out, total=total))
        if total is None and not predicted + left_out:
            display.report(Note(text="No path came on standard input.", loud=True))
        with _reader_may_leave(csv_writer is not None):
            screen.close()
    # After all others are written: the JSON list is whole then, and the exit code says that something is missing.
    if left_out:
        raise DataError(
            f"{console.count(left_out, 'file')} of {predicted + left_out} could not be classified; see above.\n"
            "Next: repair or remove them; the predictions for all others are complete."
        )


@contextlib.contextmanager
def _reader_may_leave(file_wanted: bool) -> Iterator[None]:
    """Print in the block. Where the reader of stdout (`| head`) has seen enough, a file that is wanted is still made.

    Raises BrokenPipeError, or the SystemExit that rich makes of it, where none is.
    """
    try:
        yield
        if sys.stdout is not None:  # closed from the start
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        if not file_wanted:
            raise
        drop_stdout()


def _warnings(count: ImageCount | None, fault: str | None) -> Iterator[str]:
    if count and count.again:
        were = console.count(count.again, "image") + (" was" if count.again == 1 else " were")
        yield f"{were} named more than once, such as by a pattern and by their folder: each is predicted once."
    if count:
        yield from count.passed_over()
    if fault:
        yield fault


class TableWriter:
    """A table for people, printed in parts of `rows` rows under one heading."""

    def __init__(self, display: RunDisplay, *, rows: int = TABLE_ROWS) -> None:
        self._display = display
        self._most = rows
        self._rows: list[list[str]] = []
        self._has_heading = False

    def write(self, predictions: Sequence[Prediction]) -> None:
        self._rows += [
            [
                printable(prediction.source),
                prediction.label,
                f"{prediction.probability:.3f}",
                ", ".join(f"{name} {probability:.3f}" for name, probability in prediction.top[1:]),
            ]
            for prediction in predictions
        ]
        if len(self._rows) >= self._most:
            self.close()

    def close(self) -> None:
        if not self._rows:
            return
        columns = ["image", "label", "probability", "then"]
        table = console.table(None, columns, self._rows, right=("probability",))
        table.show_header = not self._has_heading
        with self._display.paused():
            console.show(console.out(), table)
        self._rows, self._has_heading = [], True


class JsonWriter:
    """One JSON list, its items written as they come. Where the work breaks off, the last item is the error."""

    def __init__(self, display: RunDisplay) -> None:
        self._display = display

    def write(self, predictions: Sequence[Prediction]) -> None:
        items = []
        for prediction in predictions:
            content: dict[str, Any] = {
                "source": prediction.source,
                "label": prediction.label,
                "probability": prediction.probability,
                "top": [{"label": name, "probability": probability} for name, probability in prediction.top],
            }
            if prediction.views is not None:
                content["views"] = prediction.views
            items.append("  " + json_text(content).rstrip().replace("\n", "\n  "))
        with self._display.paused():
            document.print_items(items)

    def close(self) -> None:
        with self._display.paused():
            document.close_list()


class CsvWriter:
    """Rows of a CSV file with the label of each image and its probability. `path` is for error messages.

    Where probabilities are averaged over `views`, a last column names them.
    """

    def __init__(self, path: Path, file: IO[str], *, views: str | None = None) -> None:
        self._path = path
        self._further = [] if views is None else [views]
        self._lines = CsvLines(file)
        self._lines.row([*COLUMNS, *(["views"] if self._further else [])])

    def write(self, predictions: Sequence[Prediction]) -> None:
        with clear_write_errors(self._path):
            self._lines.rows(
                [printable(prediction.source), prediction.label, f"{prediction.probability:.6f}", *self._further]
                for prediction in predictions
            )


def _name_files(images: Sequence[Path], *, name_all: bool) -> tuple[Iterator[Path], ImageCount | None]:
    """The image files that the arguments name, and how many; None for standard input, which has no known end."""
    if STDIN not in images:
        # Walked through twice, once to count for the progress: a list of all paths would not keep memory flat.
        return images_of(images), count_images(images, name_all=name_all)
    if len(images) > 1:
        raise OptionError(
            "'-' reads the paths from standard input and cannot be combined with other images.\n"
            "Next: give either - or the images."
        )
    return _paths_from_stdin(), None


def _paths_from_stdin() -> Iterator[Path]:
    """Paths, one per line, as they come."""
    # As bytes: a name need not be UTF-8.
    for line in sys.stdin.buffer:
        if b"\0" in line:
            raise OptionError(
                "Standard input holds zero bytes, which no path has: as find -print0 writes, or an image itself.\n"
                "Next: give one path a line, find ... -print | zoo predict ..., or name the files."
            )
        if name := line.rstrip(b"\r\n"):
            yield Path(os.fsdecode(name))
