"""What zoo takes for granted of every backbone, beside shapes; the matrix checks it on the meta device.

Freezing, the proof, files and averages go by tensors and their names. A backbone of another make than those before (two
names for one tensor, a view of another tensor, values kept from one pass to the next) is to be found here, not by the
run of a user that fails at its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from zoo.model.groups import Partition

_REGISTERED = ("_parameters", "_buffers", "_modules")
_TABLES = frozenset([dict, OrderedDict])
_LEAVES: tuple[type, ...] = (bool, int, float, str, type(None))
_PLAIN = (*_LEAVES, tuple)
_BUFFERS = (torch.float32, torch.int64, torch.bool)
_MAY_STAY = frozenset(["rel_indices"])
"""Last names of what a pass may leave in a module: ConViT's table of positions depends on the number of patches alone,
and is not saved."""


def faults_of_tensors(module: nn.Module, groups: Partition) -> list[str]:
    """What the tensors and modules of a backbone are, without running it."""
    # Nothing is computed: what a context does to torch's functions would only take time.
    with torch._C.DisableTorchFunction():
        return [*_odd_tensors(module), *_odd_names(module, groups), *_odd_modules(module)]


def faults_of_a_pass(module: nn.Module, run: Callable[[], object], images: int) -> list[str]:
    """Run a module in evaluation mode: its output may depend on its tensors and on each image alone.

    Args:
        module: In evaluation mode, not run before.
        run: Runs it on the meta device.
        images: On so many.
    """
    before = _attributes(module)
    with _Operations(images) as seen:
        run()
    # What zoo does before it uses a model after any change of its weights. Caches must be empty after it.
    module.eval()
    after = _attributes(module)
    changed = [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]
    return [
        *(f"in evaluation mode it calls {name}" for name in sorted(seen.faults)),
        *(f"keeps {name} from one pass to the next" for name in changed if name.rpartition(".")[2] not in _MAY_STAY),
    ]


def _odd_tensors(module: nn.Module) -> Iterator[str]:
    tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    storages: dict[int, str] = {}
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            yield f"{name} has no shape before the first pass"
            continue
        if tensor.dtype not in (_BUFFERS if not isinstance(tensor, nn.Parameter) else (torch.float32,)):
            yield f"{name} is {tensor.dtype}"
        if not tensor.numel():
            yield f"{name} has no elements"
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous() or storage.nbytes() != tensor.numel() * tensor.element_size():
            yield f"{name} is a view, of strides {list(tensor.stride())} on {storage.nbytes()} bytes"
        if (first := storages.setdefault(storage._cdata, name)) != name:
            yield f"{name} has the memory of {first}"


def _odd_names(module: nn.Module, groups: Partition) -> Iterator[str]:
    for name in module.state_dict():
        if groups.first_name(f"backbone.{name}").removeprefix("backbone.") not in groups.tensors:
            yield f"{name} of the state dict is in no group"
    held = {groups.tensors[name] for name, _ in module.named_parameters()}
    yield from (f"the group {name} has no parameters" for name in groups.names if name not in held)


def _odd_modules(module: nn.Module) -> Iterator[str]:
    registered = {id(tensor) for tensors in (module.parameters(), module.buffers()) for tensor in tensors}
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or part._state_dict_hooks:
            yield f"{name or 'it'} has hooks"
        for attribute, value in vars(part).items():
            # Most are numbers, or empty tables of hooks: they are passed over for the sake of time.
            if attribute in _REGISTERED or type(value) in _LEAVES or (type(value) in _TABLES and not value):
                continue
            inside = list(value.values()) if isinstance(value, dict) else value
            inside = inside if isinstance(inside, (list, tuple)) else [inside]
            # nn.LSTM lists its own parameters once more.
            if any(isinstance(each, Tensor) and id(each) not in registered for each in inside):
                yield f"{name}.{attribute} is a tensor, and neither parameter nor buffer"
            if any(isinstance(each, nn.Module) for each in inside):
                yield f"{name}.{attribute} is a module that is no part of it"


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Everything that a module and its parts hold, by full name."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            inside = value.items() if attribute in _REGISTERED else [(attribute, value)]
            for key, each in inside:
                copied = dict(each) if isinstance(each, dict) else list(each) if isinstance(each, list) else each
                found[f"{name}.{key}"] = copied, getattr(each, "_version", 0)
    return found


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None or one[1] != other[1]:
        return False
    first, second = one[0], other[0]
    return first is second or (isinstance(first, (*_PLAIN, dict, list)) and _equal(first, second))


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (isinstance(one, _PLAIN) and bool(one == other))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations by which an image's output would be another next time, or beside other images."""

    def __init__(self, images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.faults: set[str] = set()
        self._images = images

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.faults.add(f"{func}, which draws random numbers")
        # Weights are standardised by the same operation, as one image.
        by_batch = "batch_norm" in str(func) and any(each is True for each in args)
        if by_batch and "backward" not in str(func) and args[0].shape[0] == self._images:
            self.faults.add(f"{func}, which takes the statistics of the batch")
        return func(*args, **(kwargs or {}))
