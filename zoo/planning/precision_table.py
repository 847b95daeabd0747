"""What is known of precision and memory layout without measuring: kinds of processors, and networks measured on them.

The table beside this module, `precision_table.json`, is written by `python -m benchmarks.precision_table`. Its rows are
networks, with how many times as fast each candidate is as the simplest one. A network is known where it was measured
itself, or where several of its kind were that compute about as much for every number they write, and all of those
come to the same choice. What it does not know is measured.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.model.devices import LIMITS, processor_fields
from zoo.planning.network_kind import NetworkWork
from zoo.planning.pass_times import WORTH_IT
from zoo.specs.plan import Compute

TABLE = Path(__file__).with_name("precision_table.json")
Work = Literal["inference", "training"]
_NEAR, _ENOUGH = 2.0, 3
"""Networks of the same kind whose intensity differs by no more than this factor speak for one another: so many must."""
# The most first: torch's kernels use the best that a processor has.
_X86 = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
_ARM = ("bf16", "asimd")
_VENDORS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkRow:
    """One network, measured on one kind of processor."""

    processor: str
    network: str
    size: tuple[int, int]
    """(height, width) of its images, in pixels."""
    work: Work
    kind: str
    multiply_adds: int
    values: int
    times: dict[str, float]
    """How many times as fast a candidate is as float32 in the contiguous layout."""

    @property
    def intensity(self) -> float:
        """As that of `NetworkWork`."""
        return self.multiply_adds / max(1, self.values)

    def choice(self, candidates: Sequence[Compute]) -> Compute | None:
        """The choice among the candidates, the simplest first; None where one of them was not measured."""
        if any(str(each) not in self.times for each in candidates):
            return None
        chosen = candidates[0]
        for each in candidates[1:]:
            if self.times[str(each)] >= WORTH_IT * self.times[str(chosen)]:
                chosen = each
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Known:
    """What the table says."""

    compute: Compute
    why: str
    """On what grounds, in words that follow `by the table: `."""


def lookup(
    rows: Sequence[NetworkRow], processor: str, network: NetworkWork, work: Work, candidates: Sequence[Compute]
) -> Known | None:
    """What the rows say of a network; None where they do not know.

    Args:
        rows: Those of `read_table`.
        processor: Of `processor_kind`.
        network: What the network computes.
        work: Whether the run trains the backbone.
        candidates: The simplest first.
    """
    of_kind = [row for row in rows if (row.processor, row.work, row.kind) == (processor, work, network.kind)]
    for row in of_kind:
        # By what it computes and not by its name: tags and providers of one architecture are the same work.
        if (row.multiply_adds, row.values) == (network.multiply_adds, network.values):
            itself = row.choice(candidates)
            return None if itself is None else Known(itself, f"{row.network} was measured on {processor}")
    near = [row for row in of_kind if 1 / _NEAR <= row.intensity / max(network.intensity, 1e-9) <= _NEAR]
    choices = {row.choice(candidates) for row in near}
    if len(near) < _ENOUGH or len(choices) != 1:
        return None
    (chosen,) = choices
    kind = f"{len(near)} networks like it ({network.kind}) were measured on {processor}"
    return None if chosen is None else Known(chosen, kind)


@cache
def read_table(path: Path = TABLE) -> tuple[NetworkRow, ...]:
    """The rows of the table that zoo brings."""
    rows = json.loads(path.read_text("utf-8"))["rows"]
    return tuple(NetworkRow(**{**row, "size": tuple(row["size"])}) for row in rows)


def processor_kind() -> str:
    """The kind of this processor, by the most that torch's kernels use of it, such as `AMD avx512_bf16`.

    Empty where that is not known, or where a variable or a switch of torch keeps kernels from using it.
    """
    kernels = torch.backends.mkldnn
    if any(map(os.environ.get, LIMITS)) or not (kernels.is_available() and kernels.enabled):  # type: ignore[no-untyped-call]
        return ""
    fields = processor_fields()
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    if platform.machine() in ("x86_64", "AMD64"):
        vendor = _VENDORS.get(fields.get("vendor_id", ""), "")
        best = next((flag for flag in _X86 if flag in flags), "")
        # A torch that was built without them uses none of them.
        wide = best == "avx2" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        return f"{vendor} {best}" if vendor and best and wide else ""
    best = next((flag for flag in _ARM if flag in flags), "")
    return f"ARM {best}" if best and platform.machine() in ("aarch64", "arm64") else ""
