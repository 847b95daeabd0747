"""`zoo predict`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo import api
from zoo.artefact.classifier import BATCH, Prediction
from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.cli.run_display import RunDisplay
from zoo.data.folder import IMAGE_SUFFIXES
from zoo.errors import DataError
from zoo.events import Note, Progress
from zoo.files import write_text


def predict_images(
    artefact: Path,
    images: Sequence[Path],
    *,
    top: int,
    csv_file: Path | None,
    device: str,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Print what is on the images. A bad file costs only itself; raises DataError at the end where there was one."""
    files = list(_files(images))
    classifier = api.load(artefact, device=device)
    bad: list[str] = []
    predictions: list[Prediction] = []
    with RunDisplay(verbosity, as_json=True) as display:
        if classifier.fault:
            display.report(Note(text=classifier.fault, loud=True))

        def on_error(source: str, error: DataError) -> None:
            bad.append(source)
            display.report(Note(text=f"Left out: {error}", loud=True))

        for start in range(0, len(files), BATCH):
            predictions += classifier.predict(files[start : start + BATCH], top=top, on_error=on_error)
            display.report(Progress(task="predict", done=min(start + BATCH, len(files)), total=len(files)))
    print(_json(predictions)) if as_json else _print(predictions)
    if csv_file is not None:
        write_text(csv_file, _csv(predictions))
    if bad:
        raise DataError(f"{console.count(len(bad), 'file')} of {len(files)} could not be read; see above.")


def _files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
        if not found:
            raise DataError(f"There are no images in {path}; they end in {', '.join(IMAGE_SUFFIXES)}.")
        yield from found


def _print(predictions: Sequence[Prediction]) -> None:
    rows = [
        [
            each.source,
            each.label,
            f"{each.probability:.3f}",
            ", ".join(f"{name} {chance:.3f}" for name, chance in each.top[1:]),
        ]
        for each in predictions
    ]
    if rows:
        columns = ["image", "label", "probability", "then"]
        console.show(console.out(), console.table(None, columns, rows, right=("probability",)))


def _json(predictions: Sequence[Prediction]) -> str:
    content = [
        {
            "source": each.source,
            "label": each.label,
            "probability": each.probability,
            "top": [{"label": name, "probability": chance} for name, chance in each.top],
        }
        for each in predictions
    ]
    return json.dumps(content, indent=2, ensure_ascii=False)


def _csv(predictions: Sequence[Prediction]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "label", "probability"])
    writer.writerows([each.source, each.label, f"{each.probability:.6f}"] for each in predictions)
    return text.getvalue()
