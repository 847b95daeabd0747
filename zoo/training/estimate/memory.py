"""Peak memory: how many bytes tensors hold at most while something runs, and how many the whole process did."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(Protocol):
    """A context manager that counts the memory of tensors created inside it."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *exception: Any) -> Any: ...

    @property
    def peak(self) -> int:
        """The most bytes held at the same time so far."""


def measure_peak(device: torch.device, known: Iterable[Tensor]) -> Peak:
    """Return a counter of the device's memory.

    Args:
        device: Where the tensors are.
        known: Tensors of any shape that exist before and stay; they are not counted.
    """
    return _CudaPeak(device) if device.type == "cuda" else _StoragePeak(known)


class _CudaPeak:
    """Counts by CUDA's own allocator, workspaces of kernels included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def __enter__(self) -> _CudaPeak:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before


class _StoragePeak(TorchDispatchMode):
    """Counts the storages that operations return, until they are freed.

    The CPU's allocator keeps no such count. What a kernel allocates and frees inside an operation is not seen.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        # Views and in-place operations return a storage that is counted already.
        if key in self._known or key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self._now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)


def process_peak() -> int:
    """Return the most bytes that this process has held since it began; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
