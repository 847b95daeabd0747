"""What a person asks for, as the command line and the library take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_CLASSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The arguments of `zoo plan`, `zoo finetune`, `zoo.plan` and `zoo.finetune`; every default is here."""

    backbone: str
    """`[provider/]architecture[.tag]`"""
    head: str = "dropout_linear"
    classes: int | None = None
    """None: as many as the data has, or 5 of the sample set."""
    recipe: str = "staged"
    """A registered name, or the path of a TOML file."""
    data: Path | None = None
    """None: the generated sample set."""
    weights: str = "default"
    """`default`, a tag, `random`, or the path of a file."""
    head_options: Mapping[str, Any] = field(default_factory=dict)
    set: tuple[str, ...] = ()
    """`STAGE.KEY=VALUE`, over the recipe's."""
    epochs: int | None = None
    batch_size: int | None = None
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    """Decoding threads; None: one per core, at most eight."""
