"""What a network computes, as far as precision and memory layout matter: counted from its outline, in a few moments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.model.model import ZooModel

Kind = Literal["attention", "depthwise", "grouped", "matrices", "convolutions"]
Sort = Literal["attention", "depthwise", "grouped", "linear", "spatial", "pointwise"]
_ATTENTION, _DEPTHWISE, _GROUPED, _MATRICES = 0.01, 0.01, 0.02, 0.5
"""Shares of the multiply-adds from which on a network is of a kind. Depthwise convolutions have few, and take long."""


@dataclass(frozen=True, slots=True)
class NetworkWork:
    """The multiply-adds of one image's forward pass."""

    multiply_adds: int
    values: int
    """Numbers that convolutions and matrix products write."""
    shares: dict[Sort, float]
    """How much of the multiply-adds every sort of operation has; they sum to 1."""

    @property
    def kind(self) -> Kind:
        """The kind of network."""
        shares = self.shares
        if shares["attention"] >= _ATTENTION:
            return "attention"
        if shares["depthwise"] >= _DEPTHWISE:
            return "depthwise"
        if shares["grouped"] >= _GROUPED:
            return "grouped"
        return "matrices" if shares["linear"] >= _MATRICES else "convolutions"

    @property
    def intensity(self) -> float:
        """Multiply-adds for every number that is written: how much a pass computes rather than waits for memory."""
        return self.multiply_adds / max(1, self.values)


def network_work(outline: ZooModel) -> NetworkWork:
    """Count what one image's forward pass multiplies, of a model on the meta device. Its modes are left as they are."""
    training = [module for module in outline.modules() if module.training]
    counting = _Counting()
    try:
        outline.eval()
        with torch.device("meta"), torch.no_grad(), counting:
            outline.features(torch.empty(1, *outline.preprocessing.input_size, device="meta"))
    finally:
        # One by one: `outline.train()` would decide the modes anew, instead of giving back those that there were.
        for module in training:
            module.training = True
    return counting.work()


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds of every operation that is called inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counted: Counter[Sort] = Counter()
        self._values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        counts = _COUNTED.get(func.overloadpacket)
        if counts is not None:
            sort, multiplied = counts(args, output)
            self._counted[sort] += multiplied
            self._values += output.numel()
        return output

    def work(self) -> NetworkWork:
        total = sum(self._counted.values())
        sorts: tuple[Sort, ...] = ("attention", "depthwise", "grouped", "linear", "spatial", "pointwise")
        return NetworkWork(total, self._values, {sort: self._counted[sort] / max(1, total) for sort in sorts})


def _convolution(args: tuple[Any, ...], output: Tensor) -> tuple[Sort, int]:
    # aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups); weights are
    # [out, in / groups, height, width], so the division by groups is in their shape.
    weight, groups = args[1], args[8]
    of_one = math.prod(weight.shape[1:])
    multiplied = output.numel() * of_one
    if groups == 1:
        return ("pointwise" if math.prod(weight.shape[2:]) == 1 else "spatial"), multiplied
    return ("depthwise" if weight.shape[1] == 1 else "grouped"), multiplied


# Of addmm and baddbmm the first argument is the bias, mm and bmm have none: the left factor is the last but one of all.
def _linear(args: tuple[Any, ...], output: Tensor) -> tuple[Sort, int]:
    return "linear", output.numel() * args[-2].shape[-1]


def _attention(args: tuple[Any, ...], output: Tensor) -> tuple[Sort, int]:
    return "attention", output.numel() * args[-2].shape[-1]


_aten = torch.ops.aten
_COUNTED: dict[Any, Callable[[tuple[Any, ...], Tensor], tuple[Sort, int]]] = {
    _aten.convolution: _convolution,
    _aten.addmm: _linear,
    _aten.mm: _linear,
    # torch turns linear layers into mm and addmm. A product of batches multiplies two computed tensors: attention.
    _aten.bmm: _attention,
    _aten.baddbmm: _attention,
}
