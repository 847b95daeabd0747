"""ONNX as `--input image` and `--int8` ask for it: in 8 bits, with the preprocessing in the graph, or both.

The classifier is traced in float32 first and compared with the original like every export. 8 bits are judged beside
that, and what takes pictures beside the same classifier on pictures that Pillow prepared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.events import Progress, Report
from zoo.exporting.comparisons import LEAST_EQUAL, LEAST_EQUAL_INT8, Int8Comparison, PictureComparison
from zoo.exporting.formats import ExportRequest
from zoo.exporting.int8 import write_int8
from zoo.exporting.onnx_file import (
    HOW,
    as_metadata,
    metadata_of,
    open_session,
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
_HOW_WITH_PICTURES = (
    f'onnxruntime.InferenceSession("{{path}}/{FILE}").run(["probabilities"], {{{{"pictures": pictures}}}})'
)
"""The Python that loads it."""


@dataclass(frozen=True, slots=True)
class Comparable:
    """The images that an export is calibrated on and judged by."""

    dataset: Dataset | None
    """Those of the run; None where generated pictures have to do."""
    seed: int = 0
    """The run's seed."""


def find_images(asked: ExportRequest, origin: RunOrigin | None, report: Report) -> Comparable:
    """Find the images of the run that the classifier comes from, before anything is traced.

    Raises:
        Refused: There is too little to calibrate 8 bits on.
        DataError: The images are gone or others by now, and 8 bits need them.
    """
    if asked.int8:
        run = refuse_too_few(origin)
        return Comparable(run.images(report), run.plan.seed)
    return Comparable(None if origin is None else origin.images_if_there(report))


def write(
    source: ExportSource,
    path: Path,
    asked: ExportRequest,
    images: Comparable,
    compare: Callable[[Callable[[Tensor], Tensor]], None],
    report: Report,
) -> Written:
    """Write what is asked for: a file, or for pictures a folder.

    Args:
        source: The classifier.
        path: The file or folder to write.
        asked: The options.
        images: What `find_images` found.
        compare: Compares images[N, 3, H, W] -> logits[N, classes] of the float32 file with the original's.
        report: Called with Progress and Note.

    Raises:
        Refused: The preprocessing has a filter that ONNX lacks.
        CheckFailed: The result is too far from the original.
    """
    preprocessing = source.model.preprocessing
    if asked.takes_pictures:
        refuse_other_filters(preprocessing)
    metadata = metadata_of(source)
    with tempfile.TemporaryDirectory(prefix="zoo-export-") as folder:
        work = Path(folder)
        # A folder of its own: whether the weights went to further files is told by what lies beside the file.
        (work / "traced").mkdir()
        core = work / "traced" / FILE
        report(Progress(task="trace", done=0, total=1, unit="models"))
        # Without metadata, which are written into the last file that is made of it.
        write_traced(source, core, {})
        report(Progress(task="trace", done=1, total=1, unit="models"))
        float32 = runner(open_session(core))
        compare(float32)
        int8: Int8Comparison | None = None
        if asked.int8 and images.dataset is not None:
            core = work / FILE
            int8 = write_int8(
                work / "traced" / FILE,
                core,
                preprocessing,
                images.dataset,
                work,
                report,
                seed=images.seed,
                max_loss=asked.points,
            )
            metadata["int8"] = as_metadata(int8.facts())
        if not asked.takes_pictures:
            _save(onnx.load(core), path, metadata)
            return Written(run=runner(open_session(path)), how=HOW, int8=int8)
        pictures = _Pictures(source, work, images, report)
        in_float32 = pictures.compare(work / "traced" / FILE, "float32", LEAST_EQUAL)
        in_int8 = pictures.compare(core, "int8", LEAST_EQUAL_INT8) if int8 else None
        found = Written(run=float32, how=_HOW_WITH_PICTURES, pictures=in_float32, pictures_int8=in_int8, int8=int8)
        _write_folder(path, core, source, metadata, found)
    return found


def _write_folder(path: Path, core: Path, source: ExportSource, metadata: dict[str, str], found: Written) -> None:
    """Write the file `core` with the preprocessing in its graph, and what lies beside it, into the folder `path`."""
    assert found.pictures is not None, "they were compared"
    # Under another name: nobody should prepare the pictures a second time.
    metadata["preprocessing_in_graph"] = metadata.pop("preprocessing")
    metadata["pictures"] = as_metadata(found.pictures.to_dict())
    compared = {"pictures": found.pictures, "pictures_int8": found.pictures_int8, "int8": found.int8}
    path.mkdir()
    _save(with_preprocessing(onnx.load(core), source.model.preprocessing), path / FILE, metadata)
    write_folder(path, FILE, source, {name: result for name, result in compared.items() if result is not None})


class _Pictures:
    """What exports that take pictures are compared on."""

    def __init__(self, source: ExportSource, work: Path, images: Comparable, report: Report) -> None:
        found = images.dataset
        self._split, self._files = to_judge(found, MOST_REAL) if found is not None else ("", [])
        self._preprocessing, self._work, self._report = source.model.preprocessing, work, report

    def compare(self, core: Path, precision: Literal["float32", "int8"], least: float) -> PictureComparison:
        """Compare a file with the preprocessing before it with the file alone, on pictures that Pillow prepared."""
        whole = self._work / "whole.onnx"
        _save(with_preprocessing(onnx.load(core), self._preprocessing), whole, {})
        return compare_pictures(
            open_session(whole),
            runner(open_session(core)),
            self._preprocessing,
            self._files,
            self._split,
            self._report,
            precision=precision,
            least=least,
        )


def _save(model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
