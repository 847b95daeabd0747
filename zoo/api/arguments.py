"""What public functions have in common: arguments with an older name or none at all, and progress."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, cast

from zoo.display.shown import shown
from zoo.errors import either, nearest

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_arguments(
    renamed: Mapping[str, str] = MappingProxyType({}), *, moved: Mapping[str, Callable[..., Any]] = MappingProxyType({})
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator for a public function, which answers calls with names of arguments that it does not have.

    A name of an earlier version goes on working, with a DeprecationWarning. For any other, Python's TypeError says the
    nearest name.

    Args:
        renamed: Old name -> new name. An old name that the function now uses for something else means the old one where
            its value is callable: `report=` was the function that is called with events.
        moved: Old name -> the public function that does now what that argument did; it is called with the argument's
            value first, and with the others by name.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        known = list(inspect.signature(function).parameters)
        called = function.__name__

        @functools.wraps(function)
        def call(*args: _P.args, **given: _P.kwargs) -> _R:
            for old, new in renamed.items():
                if old in given and (old not in known or callable(given[old])):
                    _rename(called, given, old, new)
            for old, instead in moved.items():
                if old in given:
                    _deprecate(f"zoo.{called}({old}=RUN)", f"zoo.{instead.__name__}(RUN)")
                    result: _R = instead(given.pop(old), *args, **given)
                    return result
            for name in given:
                if name not in known:
                    raise TypeError(_unknown(called, name, known))
            return function(*args, **given)

        return call

    return decorate


def with_progress(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A decorator for a public function with `on_event` and `verbose`: inside, `on_event` also shows what goes on.

    It reads `verbose`, which the function has for its signature: `zoo.display.shown` says what the values mean.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **given: _P.kwargs) -> _R:
        options: dict[str, Any] = dict(given)
        verbose = options.get("verbose")
        if verbose is not None and not isinstance(verbose, bool):
            raise TypeError(f"zoo.{function.__name__}(verbose=...) takes True, False or None, got {verbose!r}")
        with shown(options.get("on_event"), verbose) as report:
            return cast("Callable[..., _R]", function)(*args, **{**options, "on_event": report})

    return call


def _rename(called: str, given: dict[str, Any], old: str, new: str) -> None:
    if new in given:
        raise TypeError(f"zoo.{called}() got {old!r} and {new!r}, which are the old and the new name of one argument")
    _deprecate(f"zoo.{called}({old}=...)", f"zoo.{called}({new}=...)")
    given[new] = given.pop(old)


def _deprecate(old: str, new: str) -> None:
    # Shown at the line of the caller: this function, the decorator's and, for a renamed argument, the one between.
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """How many frames lie between `warnings.warn` and the caller of the public function."""
    frame, levels = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename == __file__:
        frame, levels = frame.f_back, levels + 1
    return levels


def _unknown(called: str, name: str, known: list[str]) -> str:
    close = nearest(name, known)
    hint = f"Did you mean {either(close)}?" if close else f"There are: {', '.join(known)}."
    return f"zoo.{called}() got an unexpected keyword argument {name!r}. {hint}"
