"""The formats of `zoo export`, in one table.

It imports neither torch nor a format's own library, so that the command line can read it at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from zoo.errors import OptionError, meant

ExportInput = Literal["tensor", "image"]
INPUTS: tuple[str, ...] = get_args(ExportInput)
MAX_LOSS = 1.0
"""Points of accuracy that an int8 export may lose, unless the caller says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """A format that a classifier can be exported to."""

    writer: str
    """The module whose function `write` writes it; it is imported when this format is asked for."""
    suffix: str
    """What the default path ends with, behind the name of the artefact's folder."""
    any_classifier: bool
    """Whether it can hold every backbone and head. The layouts of libraries cannot."""


FORMATS = {
    "onnx": ExportFormat(writer="zoo.exporting.onnx_file", suffix=".onnx", any_classifier=True),
    "pt2": ExportFormat(writer="zoo.exporting.pt2", suffix=".pt2", any_classifier=True),
    "timm": ExportFormat(writer="zoo.exporting.timm_folder", suffix="-timm", any_classifier=False),
    "torchvision": ExportFormat(
        writer="zoo.exporting.torchvision_file", suffix="-torchvision.safetensors", any_classifier=False
    ),
}
"""The formats by the name that `--to` takes."""


def other_formats(than: str = "") -> tuple[str, ...]:
    """Return `--to NAME` for every format, other than one, that can hold any classifier."""
    return tuple(f"--to {name}" for name, entry in FORMATS.items() if entry.any_classifier and name != than)


WHAT_WORKS = f"Next: {' or '.join(other_formats())}"
"""The next step in the messages of the formats that cannot hold a classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """What an export is to be. Raises OptionError, when it is made, for what does not go together."""

    to: str
    """The name of a format in `FORMATS`."""
    input: str = "tensor"
    """`tensor`: preprocessed images. `image`: pictures of any size, for ONNX alone."""
    int8: bool = False
    """Whether ONNX computes in 8 bits, calibrated on the run's training images."""
    max_loss: float | None = None
    """Points of accuracy, 0 to 100, that `int8` may lose. None: `MAX_LOSS`."""

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise OptionError(
                f"There is no export format {self.to!r}.{meant(self.to, FORMATS, count=1)} "
                f"Formats: {', '.join(FORMATS)}.\n{WHAT_WORKS} can hold any classifier."
            )
        if self.input not in INPUTS:
            raise OptionError(
                f"There is no input {self.input!r}.{meant(self.input, INPUTS, count=1)} Inputs: {', '.join(INPUTS)}.\n"
                "Next: --input image for pictures, or leave it out for preprocessed images."
            )
        for option, given in (("--input image", self.takes_pictures), ("--int8", self.int8)):
            if given and self.to != "onnx":
                name = option.partition(" ")[0]
                raise OptionError(
                    f"{option} is for ONNX, and --to says {self.to}.\nNext: --to onnx, or leave {name} out."
                )
        if self.max_loss is None:
            return
        if not self.int8:
            raise OptionError("--max-loss says what --int8 may lose, and --int8 was not given.\nNext: add --int8")
        if not (math.isfinite(self.max_loss) and 0 <= self.max_loss <= 100):
            raise OptionError(
                f"--max-loss is a number of points of accuracy, 0 to 100, got {self.max_loss:g}.\n"
                f"Next: --max-loss {MAX_LOSS:g}"
            )

    @property
    def takes_pictures(self) -> bool:
        """Whether the preprocessing is part of the export."""
        return self.input == "image"

    @property
    def needs_run(self) -> bool:
        """Whether the export is compared on the run's own images."""
        return self.takes_pictures or self.int8

    @property
    def points(self) -> float:
        """Points of accuracy that may be lost."""
        return MAX_LOSS if self.max_loss is None else self.max_loss

    def place(self, folder: Path, out: Path | None) -> Path:
        """Where the export of an artefact `folder` is to be. Raises OptionError for an `out` that it cannot be."""
        # Beside the artefact, under its resolved name: `.` or a link has no name to build on.
        if out is None:
            suffix = FORMATS[self.to].suffix
            middle = "-int8" if self.int8 else ""
            ending = f"{middle}-onnx" if self.takes_pictures else f"{middle}{suffix}"
            return folder.resolve().parent / f"{folder.resolve().name}{ending}"
        if self.to == "pt2" and out.suffix != ".pt2":
            raise OptionError(f"torch.export loads files that end in .pt2, and {out} does not.\nNext: --out {out}.pt2")
        if self.takes_pictures and out.suffix == ".onnx":
            raise OptionError(
                f"--input image writes a folder, the file with class names and examples, and {out} reads like a file.\n"
                f"Next: --out {out.with_suffix('')}"
            )
        return out
