"""A GPU that is pretended: tensors have shapes and a device there, and no values, so code for a GPU runs without one.

Inside `PretendedGpu`, torch refuses to compute with tensors of two devices, as on a real one. What makes the program
wait for the device (a number that Python asks for, a copy to main memory, a copy from memory that is not page-locked)
is counted by the place in zoo that asked.
Every number that is asked for is 1, and every yes-or-no question is answered with yes.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
ZOO = Path(__file__).parents[1] / "zoo"
_aten = torch.ops.aten
_ASKS = (_aten._local_scalar_dense, _aten.item, _aten.is_nonzero, _aten.equal)
"""Operations that give Python a value."""
_COPIES = (_aten._to_copy, _aten.copy_)
"""Operations that copy a tensor, one from another memory."""


class PretendedGpu:
    """A context in which there is a GPU, and a record of who waited for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: Counter[str] = Counter()
        """How often each place waited, as `training/trainer.py:train_step`."""
        self._patch = monkeypatch
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Both live in the process, so that reading them waits for nobody.
        self._patch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8))
        self._patch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
        # A digest needs values. It copies its tensor to main memory.
        self._patch.setattr("zoo.training.stage_watch.tensor_digest", self._digest)
        self._patch.setattr("zoo.training.stage_watch.tensors_digest", self._digests)
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        self._stack.enter_context(_Waits(self.waits))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def _digest(self, tensor: Tensor) -> str:
        tensor.cpu()
        return "pretended"

    def _digests(self, tensors: dict[str, Tensor]) -> str:
        return [self._digest(tensor) for tensor in tensors.values()][-1]


def move(module: nn.Module) -> None:
    """Do what `.to("cuda")` does: parameters and buffers go there, and nothing else does."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            there = torch.empty(parameter.shape, dtype=parameter.dtype, device=GPU)
            setattr(part, name, nn.Parameter(there, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU))


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what waits for the device, and answers where a value is asked for."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default and args[0].device.type == "cuda":
            # C++ asks where a tensor is. It hears of the meta device, which is true: autograd would look for the GPU.
            # Python, and with it every check that devices agree, asks the tensor's own property.
            return torch.device("meta")
        if func.overloadpacket in _ASKS:
            self._note(args)
            return True if func.overloadpacket in (_aten.equal, _aten.is_nonzero) else _one(args[0])
        kwargs = dict(kwargs or {})
        if func.overloadpacket in (_aten.pin_memory, _aten._pin_memory):  # page-locked memory is the process's own
            return args[0]
        if func.overloadpacket is _aten.bincount:  # it looks for the largest value
            self._note(args)
            return args[0].new_ones((args[2:] or (kwargs["minlength"],))[0])
        if str(kwargs.get("device")) == "meta":  # "where this tensor is", said by C++
            kwargs["device"] = GPU
        if func.overloadpacket is _aten.index:
            args = args[0], [self._places(each) for each in args[1]]
        if func.overloadpacket is _aten._fused_sgd_:  # torch has no shapes for it: it changes its first tensors
            assert {each.device for tensors in args[:3] for each in tensors} == {GPU}
            return None
        if func.overloadpacket in (_aten.cat, _aten.stack) and len({each.device for each in args[0]}) > 1:
            # Of scalars the pretence alone would allow it.
            raise RuntimeError("Expected all tensors to be on the same device, and these are put together")
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output.device.type == "cpu":  # copied to main memory
            self._note(args)
        goes_there = func.overloadpacket in _COPIES and output.device.type == "cuda" != args[:2][-1].device.type
        if goes_there and not (kwargs.get("non_blocking") or any(args[2:])):
            self._waits[_place(sys._getframe())] += 1
        return output

    def _places(self, index: Tensor | None) -> Tensor | None:
        """An index in place of a mask[N] of yes and no, which is looked through for the places with yes."""
        if index is None or index.dtype != torch.bool:
            return index
        self._note((index,))
        return index.new_zeros(len(index), dtype=torch.int64)

    def _note(self, args: tuple[Any, ...]) -> None:
        if any(isinstance(each, Tensor) and each.device.type == "cuda" for each in args):
            self._waits[_place(sys._getframe(1))] += 1


def _one(tensor: Tensor) -> float | int | bool:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _place(frame: FrameType | None) -> str:
    """The innermost function of zoo that is being called."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ZOO):
            return f"{path.relative_to(ZOO)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
