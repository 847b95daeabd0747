"""One export from beginning to end: read the artefact, write a draft, load it again, compare, and put it in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.artefact.golden import TOLERANCE, Difference, compare_tensors
from zoo.artefact.read import find_artefact
from zoo.errors import ArtefactError, CheckFailed, ZooError, first_line
from zoo.events import Note, Report
from zoo.exporting.comparisons import Int8Comparison, PictureComparison
from zoo.exporting.formats import FORMATS, ExportRequest, other_formats
from zoo.exporting.run_images import RunOrigin
from zoo.exporting.source import ExportSource, Write, Written, read_source
from zoo.registry.registry import Registry
from zoo.storage.atomic import new_path

_FURTHER_BATCHES = (1, 7)
"""Batch sizes to compare beside that of the images which the export was traced with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A finished export."""

    path: Path
    """Where it is."""
    to: str
    """The name of its format."""
    how: str
    """Python code that loads it without zoo."""
    batches: tuple[int, ...]
    """Batch sizes whose logits were compared with the original's."""
    largest_difference: float
    """Largest absolute difference of a logit, over all these batches."""
    largest_logit: float
    """Largest absolute value of the original's logits in the batch with that difference."""
    tolerance: float
    """Largest difference allowed, as a share of the largest logit."""
    pictures: PictureComparison | None = None
    """Of an export that takes pictures: beside Pillow's preprocessing, in float32."""
    pictures_int8: PictureComparison | None = None
    """The same in 8 bits, where the export is in 8 bits."""
    int8: Int8Comparison | None = None
    """Of an export in 8 bits: beside float32. The logits above are then those of the float32 that it was made from."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "to": self.to,
            "how": self.how,
            "batches": list(self.batches),
            "largest_difference": self.largest_difference,
            "largest_logit": self.largest_logit,
            "tolerance": self.tolerance,
            **{name: compared.to_dict() for name, compared in self.comparisons().items()},
        }

    def comparisons(self) -> dict[str, PictureComparison | Int8Comparison]:
        """What `--input image` and `--int8` were compared with, by name; empty for other exports."""
        further = {"pictures": self.pictures, "pictures_int8": self.pictures_int8, "int8": self.int8}
        return {name: compared for name, compared in further.items() if compared is not None}


def export(
    path: Path,
    asked: ExportRequest,
    out: Path | None,
    registry: Registry,
    report: Report,
    *,
    origin: RunOrigin | None = None,
) -> Exported:
    """Export a classifier; the export is kept only if its logits are the original's.

    Args:
        path: An artefact or a finished run.
        asked: The format and its options.
        out: Where the export is to be; None for a place beside the artefact.
        registry: Finds the plugins that the artefact needs.
        report: Is told what the user should know.
        origin: The run, for exports that are compared on its images.

    Raises:
        OptionError: A path that the format does not allow.
        Refused: The path exists, or the format cannot hold this classifier.
        ArtefactError: The artefact cannot be read, or the exporter failed.
        CheckFailed: The export gives other logits, prepares pictures otherwise, or loses more than it may.
        DataError: The run's images, which 8 bits are calibrated on, are gone or others by now.
    """
    folder = find_artefact(path)
    target = asked.place(folder, out)
    prepared = _prepared_onnx() if asked.needs_run else None
    with new_path(target) as draft:
        images = prepared.find_images(asked, origin, report) if prepared else None
        source = read_source(folder, registry, report)
        if source.config.precision != "float32":
            text = f"This classifier was trained in {source.config.precision}; exported and compared in float32."
            report(Note(text=text))
        if source.config.preprocessing.get("decode") == "fast":
            report(
                Note(
                    text="This classifier decodes large JPEG files at a part of their size (--decode fast), and "
                    "users of the export decode them whole: their logits differ slightly for such files."
                )
            )
        compared: list[tuple[tuple[int, ...], Difference]] = []

        def compare(run: Callable[[Tensor], Tensor]) -> None:
            compared.append(_compare(source, run))
            if compared[-1][1].match == "other":
                text = f"The export to {asked.to} gives other logits than the original: {compared[-1][1]}."
                raise CheckFailed(f"{text} It was not kept.\nNext: {', '.join(other_formats(asked.to))}")

        if prepared:
            further = {"asked": asked, "images": images, "compare": compare, "report": report}
            written = _write(source, draft, asked.to, partial(prepared.write, **further))
        else:
            written = _write(source, draft, asked.to, import_module(FORMATS[asked.to].writer).write)
            compare(written.run)
        # Whichever way it was written, the float32 of it was compared exactly once.
        ((batches, difference),) = compared
    return Exported(
        path=target,
        to=asked.to,
        how=written.how.format(path=target),
        batches=batches,
        largest_difference=difference.largest,
        largest_logit=difference.scale,
        tolerance=difference.tolerance,
        pictures=written.pictures,
        pictures_int8=written.pictures_int8,
        int8=written.int8,
    )


def _prepared_onnx() -> Any:
    """The module that writes ONNX with the preprocessing in its graph, or in 8 bits.

    Raises Refused where a package of the extra `export` is missing, which that module imports.
    """
    import_module(FORMATS["onnx"].writer).refuse_without_packages()
    return import_module("zoo.exporting.onnx_prepared")


def _write(source: ExportSource, draft: Path, to: str, write: Write) -> Written:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters warn their developers, not users
            return write(source, draft)
    except (ZooError, OSError):
        raise
    except Exception as error:  # exporters raise all kinds of exceptions for models that they do not support
        raise ArtefactError(
            f"{source.config.backbone.name} with head {source.config.head.name} cannot be exported to {to}: "
            f"{first_line(error)}\nNext: {', '.join(other_formats(to))}"
        ) from error


def _compare(source: ExportSource, run: Callable[[Tensor], Tensor]) -> tuple[tuple[int, ...], Difference]:
    """Compare logits in several batch sizes; return the sizes, and the largest difference relative to the logits.

    One size would not show an export that is fixed to the number of images it was traced with. `run` takes
    images[N, 3, H, W] and returns logits[N, classes].
    """
    sizes = tuple(dict.fromkeys((len(source.images), *_FURTHER_BATCHES)))
    differences = []
    for size in sizes:
        # The same few pictures again and again: what matters is their number.
        images = source.images[torch.arange(size) % len(source.images)]
        differences.append(compare_tensors(source.logits(images), run(images), TOLERANCE["float32"]))
    return sizes, max(differences, key=lambda difference: difference.largest / (difference.scale or 1))
