"""ONNX as `--input image` and `--int8` ask for it: in 8 bits, with the preprocessing in the graph, or both.

The classifier is traced in float32 first and compared with the original like every export. 8 bits are judged beside
that, and what takes pictures beside the same classifier on pictures that Pillow prepared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from zoo.events import Progress, Report
from zoo.exporting.comparisons import Int8Comparison, PictureComparison
from zoo.exporting.formats import ExportRequest
from zoo.exporting.int8 import write_int8
from zoo.exporting.onnx_file import (
    HOW,
    as_metadata,
    metadata_of,
    open_session,
    refuse_without_packages,
    runner,
    write_traced,
)
from zoo.exporting.onnx_folder import write_folder
from zoo.exporting.onnx_preprocessing import refuse_other_filters, with_preprocessing
from zoo.exporting.picture_comparison import MOST_REAL, compare_pictures
from zoo.exporting.run_images import RunOrigin, refuse_too_few, to_judge
from zoo.exporting.source import ExportSource, Written

FILE = "model.onnx"
"""The classifier in the folder of an export that takes pictures."""


def refuse_before_work(asked: ExportRequest, origin: RunOrigin | None) -> None:
    """Raise Refused for what can be known before the classifier is read: missing packages, too few images."""
    refuse_without_packages()
    if asked.int8:
        refuse_too_few(origin)


def write(
    source: ExportSource,
    path: Path,
    asked: ExportRequest,
    origin: RunOrigin | None,
    compare: Callable[[Callable[[Tensor], Tensor]], None],
    report: Report,
) -> Written:
    """Write what is asked for: a file, or for pictures a folder.

    Args:
        source: The classifier.
        path: The file or folder to write.
        asked: The options.
        origin: The run that it comes from; None for a saved classifier alone, which no 8 bits are made of.
        compare: Compares images[N, 3, H, W] -> logits[N, classes] of the float32 file with the original's.
        report: Called with Progress and Note.

    Raises:
        Refused: The preprocessing has a filter that ONNX lacks.
        CheckFailed: The result is too far from the original.
        DataError: The run's images are others by now.
    """
    preprocessing = source.model.preprocessing
    if asked.takes_pictures:
        refuse_other_filters(preprocessing)
    metadata = metadata_of(source)
    with tempfile.TemporaryDirectory(prefix="zoo-export-") as folder:
        work = Path(folder)
        (work / "traced").mkdir()
        core = work / "traced" / FILE
        report(Progress(task="trace", done=0, total=1, unit="models"))
        write_traced(source, core, {})
        report(Progress(task="trace", done=1, total=1, unit="models"))
        float32 = runner(open_session(core))
        compare(float32)
        int8: Int8Comparison | None = None
        if asked.int8:
            core = work / FILE
            int8 = write_int8(
                work / "traced" / FILE,
                core,
                preprocessing,
                refuse_too_few(origin),
                work,
                report,
                max_loss=asked.points,
            )
            metadata["int8"] = as_metadata(int8.facts())
        if not asked.takes_pictures:
            _save(onnx.load(core), path, metadata)
            return Written(run=runner(open_session(path)), how=HOW, int8=int8)
        # Under another name: nobody should prepare the pictures a second time.
        metadata["preprocessing_in_graph"] = metadata.pop("preprocessing")
        path.mkdir()
        model = with_preprocessing(onnx.load(core), preprocessing)
        _save(model, path / FILE, metadata)
        pictures = _compare(path / FILE, runner(open_session(core)), source, origin, report)
        metadata["pictures"] = as_metadata(pictures.to_dict())
        _save(model, path / FILE, metadata)
        write_folder(path, FILE, source, pictures, int8)
    how = f'onnxruntime.InferenceSession("{{path}}/{FILE}").run(["probabilities"], {{{{"pictures": pictures}}}})'
    return Written(run=float32, how=how, pictures=pictures, int8=int8)


def _compare(
    path: Path, core: Callable[[Tensor], Tensor], source: ExportSource, origin: RunOrigin | None, report: Report
) -> PictureComparison:
    """Compare the file that takes pictures with its own core on pictures that Pillow prepared."""
    dataset = origin.images_if_there(report) if origin is not None else None
    split, files = to_judge(dataset, MOST_REAL) if dataset is not None else ("", [])
    return compare_pictures(open_session(path), core, source.model.preprocessing, files, split, report)


def _save(model: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> None:
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
