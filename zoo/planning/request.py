"""What a person asks for, as the command line and the library take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import OptionError

SAMPLE_CLASSES = 5
_INPUTS = range(8, 8193)
DEFAULT_RECIPE, CLOSED_FORM_RECIPE = "staged", "head_only"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `zoo plan`, `zoo finetune`, `zoo.plan` and `zoo.finetune`; every default is here."""

    backbone: str
    """`[provider/]architecture[.tag]`"""
    head: str = "dropout_linear"
    classes: int | None = None
    """None: as many as the data has, or 5 of the sample set."""
    recipe: str | None = None
    """A registered name, or the path of a TOML file. None: `staged`, or `head_only` for a closed-form head."""
    data: Path | None = None
    """None: the generated sample set."""
    weights: str = "default"
    """`default`, a tag, `random`, or the path of a file."""
    head_options: Mapping[str, Any] = field(default_factory=dict)
    set: tuple[str, ...] = ()
    """`STAGE.KEY=VALUE`, over the recipe's."""
    epochs: int | None = None
    batch_size: int | None = None
    input_size: tuple[int, int] | None = None
    """(height, width) in pixels. None: that of the weights."""
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: what is measured to be faster here, by at least 1.2 times."""
    tune: bool = True
    """Measure, once per machine and model, which precision and memory layout are fastest."""
    workers: int | None = None
    """Decoding threads; None: one per core, at most eight."""
    offline: bool = False
    """Do not touch the network; weights that are not on this machine are then an error, on the sample set too."""


def parse_input_size(text: str) -> tuple[int, int]:
    """`384` or `384x512` (height x width) -> (height, width) in pixels. Raises OptionError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) in _INPUTS for side in sides):
        raise _no_size(text)
    return int(sides[0]), int(sides[-1])


def check_input_size(size: object) -> tuple[int, int]:
    """(height, width) in pixels, or one number for a square -> the same as a tuple. Raises OptionError."""
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (tuple, list)) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side in _INPUTS for side in sides):
        raise _no_size("x".join(map(str, sides)) or str(size))
    return sides[0], sides[1]


def _no_size(text: str) -> OptionError:
    return OptionError(
        f"--input-size {text!r} is no size: write 384, or 384x512 for height x width, "
        f"from {_INPUTS.start} to {_INPUTS.stop - 1} pixels."
    )
