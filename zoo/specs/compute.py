"""How a backbone computes: precision and memory layout, and whence the choice came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True, slots=True)
class Compute:
    """How the backbone's forward and backward pass compute. Weights, head and loss are always float32."""

    precision: Precision = "float32"
    """`bfloat16`: torch's autocast, for convolutions and matrix products."""
    memory_format: MemoryFormat = "contiguous"
    """`channels_last`: the channels of a pixel lie together, which makes convolutions faster on most machines."""

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"


class ComputeOrigin(BaseModel):
    """Whence precision and memory layout came, as `plan.json` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["table", "measured", "asked", "default"]
    """Who chose.

    `table`: what is known of this kind of processor and of networks like this one.
    `measured`: this machine, now or in an earlier run.
    With `--no-tune`, and where memory ran out while they were measured, `asked` where the precision was asked for, and
    else `default`.
    """
    asked: str
    """`auto`, or the precision that was asked for, which leaves the memory layout open."""
    why: str
    """On what grounds, in words."""
