"""The formats of `zoo export`, in one table.

It imports neither torch nor a format's own library, so that the command line can read it at once.
"""

from __future__ import annotations

from dataclasses import dataclass


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


WHAT_WORKS = f"What works: {' or '.join(other_formats())}"
"""The next step in the messages of the formats that cannot hold a classifier."""
