"""What several checks compare: tensors, states of modules, what torch.export and a file make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from zoo.testing.conduct import Fault

CLOSE = 1e-4
"""Share of the largest number by which a batch's size, a device or an exported program may change one."""
CLOSE_BF16 = 0.1
"""The same for bfloat16, which has eight bits."""
_SHOWN = 3


def require(holds: bool, fault: str) -> None:
    """Raise Fault where it does not hold."""
    if not holds:
        raise Fault(fault)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are not saved included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def kept(module: nn.Module) -> dict[str, Tensor]:
    """A copy of `tensors_of`."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(module).items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Names of the tensors that are not bit for bit what they were, or not there any more."""
    now = tensors_of(module)
    return sorted({name for name in before if name not in now or not torch.equal(before[name], now[name])})


def named(names: Sequence[str]) -> str:
    """`a`, `a, b, c and 4 more`."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def require_shape(tensor: object, shape: Sequence[int | None], what: str) -> Tensor:
    """The tensor, of this shape; None stands for any size. Raises Fault."""
    if not isinstance(tensor, Tensor):
        raise Fault(f"{what} must be a tensor{_shown(shape)}, got a {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, tensor.shape, strict=True)
    )
    require(fits, f"{what} must be of shape {_shown(shape)}, got {list(tensor.shape)}")
    return tensor


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def require_close(found: Tensor, expected: Tensor, fault: str, *, share: float = CLOSE) -> float:
    """Raise Fault where they differ by more than so much of the largest number; -> by how much they do."""
    scale = max(float(expected.detach().abs().max()), 1e-6)
    apart = float((found.detach().cpu().float() - expected.detach().cpu().float()).abs().max()) / scale
    require(apart <= share, f"{fault}; they differ by {apart:.2g} of the largest number")  # nan fails as well
    return apart


def through_a_file(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, written as zoo writes it, to the bytes of a safetensors file, and read back."""
    return load(save({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))


@contextmanager
def seed_untouched(what: str) -> Iterator[None]:
    """Raise Fault where torch's global seed is another one afterwards."""
    before = torch.initial_seed()
    yield
    require(
        torch.initial_seed() == before,
        f"{what} sets torch's seed to {torch.initial_seed()}; zoo's own seed then decides nothing",
    )


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Gradients by parameter."""
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def require_finite_gradients(gradients: Mapping[str, Tensor | None]) -> None:
    """Raise Fault where one is infinite or nan; those that are None are another matter."""
    broken = [name for name, each in gradients.items() if each is not None and not bool(each.isfinite().all())]
    require(not broken, f"the gradient of {named(broken)} is not finite")


def training_modules(module: nn.Module) -> list[str]:
    """Names of the modules that are in training mode; the module itself is ''."""
    return [name or "the module itself" for name, each in module.named_modules() if each.training]


def require_exported(module: nn.Module, example: Tensor, others: Sequence[Tensor], images: str = "images") -> None:
    """Export `module` for any number of images, and compare the program's results with its own. Raises Fault."""
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    exported = program.module()
    with torch.no_grad():
        for each in [example, *others]:
            require_close(
                exported(each), module(each), f"the exported program says something else about {len(each)} {images}"
            )
