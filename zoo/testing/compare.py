"""Comparisons that several checks share: tensors, module states, and results after export or a file round trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from zoo.testing.conduct import Fault

CLOSE = 1e-4
"""Largest difference, relative to the largest expected number, that batch size, device or export may make."""
CLOSE_BF16 = 0.1
"""The same limit for bfloat16, which has eight bits of precision."""
_SHOWN = 3


def require(holds: bool, fault: str) -> None:
    """Raise `Fault` with the message `fault` unless `holds`."""
    if not holds:
        raise Fault(fault)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, including buffers that a state dict leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of `tensors_of(module)`."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(module).items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Return the names of tensors that are gone or no longer bit-identical to the snapshot `before`."""
    now = tensors_of(module)
    return sorted({name for name in before if name not in now or not torch.equal(before[name], now[name])})


def listed(names: Sequence[str]) -> str:
    """Join names for a message: `a`, or `a, b, c and 4 more`."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def require_shape(tensor: object, shape: Sequence[int | None], what: str) -> Tensor:
    """Return `tensor` if it is one of this shape, where None stands for any size; raise `Fault` otherwise."""
    if not isinstance(tensor, Tensor):
        raise Fault(f"{what} must be a tensor{_shape_text(shape)}, got a {type(tensor).__name__}")
    fits = tensor.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    require(fits, f"{what} must be of shape {_shape_text(shape)}, got {list(tensor.shape)}")
    return tensor


def _shape_text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def require_close(actual: Tensor, expected: Tensor, fault: str, *, share: float = CLOSE) -> float:
    """Compare two tensors of any shape, which must be the same, and return their largest difference.

    The difference is relative to the largest absolute number in `expected`. Raises `Fault` where it exceeds `share`.
    """
    # Where all numbers are zero, any difference would be infinite.
    scale = max(float(expected.detach().abs().max()), 1e-6)
    difference = float((actual.detach().cpu().float() - expected.detach().cpu().float()).abs().max()) / scale
    require(difference <= share, f"{fault}; they differ by {difference:.2g} of the largest number")  # nan fails as well
    return difference


def through_a_file(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's state dict after a round trip through safetensors, the format of zoo's artefacts."""
    # Cloned, because safetensors refuses tensors that share memory, as those of a layer that several blocks use do.
    return load(save({name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}))


@contextmanager
def seed_untouched(action: str) -> Iterator[None]:
    """Raise `Fault` if torch's global seed is a different one after the block; `action` says what the block does."""
    # The seed and not the generator's state, which building may change: initial values are drawn from it.
    before = torch.initial_seed()
    yield
    require(
        torch.initial_seed() == before,
        f"{action} sets torch's seed to {torch.initial_seed()}, which overrides the seed that zoo set",
    )


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return each parameter's gradient by the parameter's name; None where backward did not reach it."""
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def require_finite_gradients(gradients: Mapping[str, Tensor | None]) -> None:
    """Raise `Fault` if any gradient is infinite or nan. Gradients that are None are ignored."""
    broken = [name for name, grad in gradients.items() if grad is not None and not bool(grad.isfinite().all())]
    require(not broken, f"the gradient of {listed(broken)} is not finite")


def modules_in_mode(module: nn.Module, *, training: bool) -> list[str]:
    """Return the names of the modules that are in training mode, or in evaluation mode."""
    return [name or "the module itself" for name, child in module.named_modules() if child.training == training]


def require_exported(module: nn.Module, example: Tensor, batches: Sequence[Tensor], images: str = "images") -> None:
    """Export `module` with torch.export for any batch size, and compare its outputs with the module's own.

    Args:
        module: A module that takes one tensor, batch[N, ...].
        example: The batch to export with.
        batches: Batches of other sizes, on which both must agree too.
        images: What a batch consists of, for the message.

    Raises:
        Fault: The exported program's output differs.
    """
    # Only the number of images is free: a model has one input size.
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    exported = program.module()
    with torch.no_grad():
        for batch in [example, *batches]:
            fault = f"the exported program's output is different for {len(batch)} {images}"
            require_close(exported(batch), module(batch), fault)
