"""Initial values of a module drawn anew, where every layer knows how: what `random` means for a module of one's own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def not_drawn(module: nn.Module) -> str:
    """Why the module's values cannot be drawn anew, as the end of a sentence; empty where they can.

    They can where every part that holds parameters, or buffers with numbers that training may have changed, has
    `reset_parameters`, as torch's own layers have. Anything else would keep values and call them random.
    """
    for name, part in module.named_modules():
        held = list(_held(part))
        place = f"its part {name!r}" if name else "the module itself"
        if held and not callable(getattr(part, "reset_parameters", None)):
            return f"{place} ({type(part).__name__}) holds {held[0]!r} and has no reset_parameters() that draws it"
        if hasattr(part, "parametrizations"):
            return f"{place} ({type(part).__name__}) computes its parameters from others"
    return ""


def redraw(module: nn.Module) -> None:
    """Draw the values of every layer anew, in place and from torch's random numbers; see `not_drawn`."""
    for part in module.modules():
        if any(True for _ in _held(part)):
            part.reset_parameters()  # type: ignore[operator]


def _held(part: nn.Module) -> Iterator[str]:
    """The names of a part's own parameters, and of its own buffers that are saved and hold numbers."""
    saved = part.state_dict(keep_vars=True)
    yield from (name for name, _ in part.named_parameters(recurse=False))
    for name, buffer in part.named_buffers(recurse=False):
        if name in saved and _is_number(buffer):
            yield name


def _is_number(buffer: Tensor) -> bool:
    return buffer.is_floating_point()
