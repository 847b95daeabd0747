"""How a backbone computes: precision and layout in memory. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Of the backbone's forward and backward pass; weights, head and loss are float32 whatever it says."""

    precision: Precision = "float32"
    """`bfloat16`: convolutions and matrix products by torch's autocast."""
    memory_format: MemoryFormat = "contiguous"
    """`channels_last`: the channels of a pixel lie together; faster convolutions on most machines."""

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"
