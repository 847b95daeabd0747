"""The order in which data flow through a module's top-level parts, measured by running it once with hooks.

A module is a chain of its parts where each is called once and gets the output of the one before, whatever is computed
without parameters in between. Autograd tells: each part's output is replaced by a new leaf, and the inputs of the
next may depend on that leaf alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import first_line
from zoo.text import some

_IMAGES, _OUTPUT = "the images", "its output"
_Leaf = tuple[str, Tensor]
"""(part that returned it, tensor of any shape)."""


class NoChain(Exception):
    """The module is no chain of its parts. The message says what was seen, as the end of a sentence."""


def find_chain(module: nn.Module, images: Tensor) -> tuple[str, ...]:
    """The names of a module's top-level parts that hold parameters, in the order in which data flow through them.

    Args:
        module: In evaluation mode. Nothing of it changes.
        images: images[N, 3, H, W] that it takes.

    Raises NoChain where they are no chain.
    """
    # A hook sees calls of parts. Where a parameter of the module itself is used, no hook would tell.
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise NoChain(f"it has parameters of its own beside its parts: {some(own)}")
    parts = {name: part for name, part in module.named_children() if any(True for _ in part.parameters())}
    if not parts:
        raise NoChain("none of its parts has parameters")
    flow = _Flow(images)
    hooks = []
    for name, part in parts.items():
        hooks.append(part.register_forward_pre_hook(flow.entering(name), with_kwargs=True))
        hooks.append(part.register_forward_hook(flow.leaving(name), with_kwargs=True))
    try:
        with torch.enable_grad():
            flow.note(_OUTPUT, _tensors_of(module(flow.images)))
    except NoChain:
        raise
    except Exception as error:  # the module's own code may fail in any way on tensors that are followed
        raise NoChain(f"its data could not be followed ({first_line(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    flow.check(parts)
    return flow.called


class _Flow:
    """What each part was given in one pass."""

    def __init__(self, images: Tensor) -> None:
        first = images.detach().clone().requires_grad_()
        # Not the leaf itself: a part may change its input in place.
        self.images = first.clone()
        self._leaves: list[_Leaf] = [(_IMAGES, first)]
        self._steps: list[tuple[str, frozenset[str]]] = []

    @property
    def called(self) -> tuple[str, ...]:
        """The parts in the order of their calls."""
        return tuple(name for name, _ in self._steps[:-1])

    def note(self, name: str, inputs: list[Tensor]) -> None:
        """Remember which parts' outputs these tensors of any shape were computed from."""
        followed = [tensor for tensor in inputs if tensor.requires_grad]
        sources: set[str] = set()
        if followed:
            leaves = [leaf for _, leaf in self._leaves]
            ones = [torch.ones_like(tensor) for tensor in followed]
            # The graph is needed again: later parts may use an earlier output too, which is what has to be noticed.
            gradients = torch.autograd.grad(followed, leaves, ones, retain_graph=True, allow_unused=True)
            pairs = zip(self._leaves, gradients, strict=True)
            sources = {source for (source, _), gradient in pairs if gradient is not None}
        self._steps.append((name, frozenset(sources)))

    def entering(self, name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: Any, kwargs: Any) -> None:
            self.note(name, [*_tensors_of(args), *_tensors_of(kwargs)])

        return hook

    def leaving(self, name: str) -> Callable[..., Any]:
        def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            return self._renewed(name, output)

        return hook

    def check(self, parts: dict[str, nn.Module]) -> None:
        """Raise NoChain where a part was not called once, or was given more than the output of the one before."""
        for name in parts:
            calls = self.called.count(name)
            if calls != 1:
                times = "is not called" if calls == 0 else f"is called {calls} times"
                raise NoChain(f"its part {name!r} {times}")
        before = _IMAGES
        for name, sources in self._steps:
            if sources != {before}:
                who = _OUTPUT if name == _OUTPUT else f"its part {name!r}"
                raise NoChain(f"{who} {_got(sources, before)}")
            before = name

    def _renewed(self, name: str, output: Any) -> Any:
        """The same output, with new leaves in place of its tensors."""
        if isinstance(output, Tensor):
            if not output.is_floating_point():
                return output
            leaf = output.detach().clone().requires_grad_()
            self._leaves.append((name, leaf))
            return leaf.clone()
        # Plain containers alone: one of another class could not be made anew without knowing how.
        if isinstance(output, dict) and type(output) is dict:
            return {key: self._renewed(name, value) for key, value in output.items()}
        if type(output) in (tuple, list):
            return type(output)(self._renewed(name, value) for value in output)
        raise NoChain(f"its part {name!r} returns a {type(output).__name__}, not tensors")


def _got(sources: frozenset[str], before: str) -> str:
    """What a part was given, beside what it should have been given."""
    expected = before if before == _IMAGES else f"the output of {before!r}"
    if not sources:
        return f"is not computed from {expected} in a way that gradients follow"
    given = some([each if each == _IMAGES else f"the output of {each!r}" for each in sorted(sources)])
    return f"gets {given}, where {expected} alone was expected"


def _tensors_of(value: Any) -> list[Tensor]:
    """The tensors of any shape in a value, however deep they lie."""
    return list(_inside(value))


def _inside(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _inside(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _inside(each)
