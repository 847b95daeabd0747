"""One export from beginning to end: read, write beside its place, read again, compare, put in its place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from zoo.artefact.golden import TOLERANCE, Difference, compare
from zoo.artefact.read import find_artefact
from zoo.errors import ArtefactError, CheckFailed, OptionError, ZooError, first_line, nearest
from zoo.events import Note, Report
from zoo.exporting.subject import Subject, Write, Written, read_subject
from zoo.files import new_path
from zoo.registry import Registry

Format = Literal["onnx", "pt2", "timm", "torchvision"]
FORMATS: tuple[Format, ...] = get_args(Format)

_WRITERS = {
    "onnx": ("zoo.exporting.onnx_file", ".onnx"),
    "pt2": ("zoo.exporting.pt2", ".pt2"),
    "timm": ("zoo.exporting.timm_folder", "-timm"),
    "torchvision": ("zoo.exporting.torchvision_file", "-torchvision.safetensors"),
}
_FURTHER_BATCHES = (1, 7)
"""Batch sizes that are compared beside that of the images which the export was traced with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What `zoo export` made."""

    path: Path
    to: Format
    how: str
    """Python that loads it without zoo."""
    batches: tuple[int, ...]
    """Batch sizes whose logits were compared with the original's."""
    largest_difference: float
    """Of all those logits."""
    largest_logit: float
    tolerance: float
    """Share of the largest logit that was allowed."""

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
        }


def export(path: Path, to: str, out: Path | None, registry: Registry, report: Report) -> Exported:
    """Write a classifier in another format; nothing is there unless its logits are the original's.

    Raises OptionError for an unknown format and a name that it does not take, Refused for a path that exists and for a
    classifier that the format cannot hold, ArtefactError, CheckFailed for other logits.
    """
    if to not in _WRITERS:
        close = nearest(to, FORMATS)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise OptionError(f"There is no export format {to!r}.{hint} Formats: {', '.join(FORMATS)}.")
    module, suffix = _WRITERS[to]
    folder = find_artefact(path)
    if to == "pt2" and out is not None and out.suffix != ".pt2":
        raise OptionError(f"torch.export loads files that end in .pt2, and {out} does not.\nNext: --out {out}.pt2")
    target = out or folder.resolve().parent / f"{folder.resolve().name}{suffix}"
    with new_path(target) as draft:
        subject = read_subject(folder, registry, report)
        if subject.config.precision != "float32":
            text = f"This classifier was trained in {subject.config.precision}; exported and compared in float32."
            report(Note(text=text))
        written = _written(subject, draft, to, import_module(module).write)
        batches, difference = _compared(subject, written.run)
        if difference.match == "other":
            raise CheckFailed(
                f"The export to {to} gives other logits than the original: {difference}. It was not kept."
            )
    return Exported(
        path=target,
        to=to,  # type: ignore[arg-type]  # looked up above
        how=written.how.format(path=target),
        batches=batches,
        largest_difference=difference.largest,
        largest_logit=difference.scale,
        tolerance=difference.tolerance,
    )


def _written(subject: Subject, draft: Path, to: str, write: Write) -> Written:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # exporters talk to their developers
            return write(subject, draft)
    except (ZooError, OSError):
        raise
    except Exception as error:  # whatever an exporter meets in a model that it was not made for
        reason = first_line(error)
        others = ", ".join(f"--to {each}" for each in ("onnx", "pt2") if each != to)
        raise ArtefactError(
            f"{subject.config.backbone.name} with head {subject.config.head.name} cannot be exported to {to}: "
            f"{reason}\nNext: {others}"
        ) from error


def _compared(subject: Subject, run: Callable[[torch.Tensor], torch.Tensor]) -> tuple[tuple[int, ...], Difference]:
    """The largest difference over all batch sizes."""
    sizes = tuple(dict.fromkeys((len(subject.images), *_FURTHER_BATCHES)))
    found = []
    for size in sizes:
        images = subject.images[torch.arange(size) % len(subject.images)]
        found.append(compare(subject.logits(images), run(images), TOLERANCE["float32"]))
    return sizes, max(found, key=lambda each: each.largest / (each.scale or 1))
