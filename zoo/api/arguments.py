"""The arguments of the public functions: names that had another one before, names that do not exist, and objects."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from zoo.errors import DataError, OptionError, either, nearest
from zoo.events import Report
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import DataLike

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


def with_data(
    data: DataLike | None,
    registry: Registry,
    on_event: Report,
    *,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
) -> tuple[Path | None, Registry]:
    """Return the path of data, or the name of an object, and a registry in which that is found.

    `image`, `label` and `split` name columns of a table in memory. Raises DataError for an object that is no data,
    OptionError for a column that does not exist.
    """
    if image is label is split is None:
        if data is None:
            return None, registry
        if isinstance(data, (str, os.PathLike)):
            return Path(data).expanduser(), registry
    from zoo.data.memory.objects import register, with_columns

    return register(with_columns(data, image=image, label=label, split=split), registry, on_event)


def with_data_of_run(
    run: Path, data: DataLike | None, registry: Registry, on_event: Report, *, compared: bool = False
) -> Registry:
    """Return a registry in which the data of a run are found: an object, if it was trained on one.

    Args:
        run: The run folder.
        data: The same object as then. None: the data have a path.
        registry: Where all other names are looked up.
        on_event: Called with every event.
        compared: Whether nothing later compares the images with those of the plan, so that it is done here.

    Raises:
        OptionError: Data are given for a run that finds its own, or a path in place of an object.
        DataError: They are no data, or others than the run's.
    """
    if data is None:
        return registry
    from zoo.comparing.pairing import Contents
    from zoo.data.memory.objects import register
    from zoo.training.stored_plan import read_plan

    plan = read_plan(run)
    if not of_session(plan.data.reader):
        raise OptionError(
            f"{run} was trained on {plan.data.source}, which is found by its path.\n"
            "Next: leave data out; it is for runs on an object in Python."
        )
    if isinstance(data, (str, os.PathLike)):
        raise OptionError(
            f"{run} was trained on an object in Python ({plan.data.path}), and data is the path {str(data)!r}.\n"
            "Next: give the same object again."
        )
    _, found = register(data, registry, on_event, described_as=plan.data.path)
    if compared and Contents(found).of(plan) is None:
        raise DataError(
            f"These are not the images of {run} ({plan.data.path}): their digest is another than "
            f"{plan.data.digest[:12]}.\nNext: give the same images, with the same labels, in the same order."
        )
    return found


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
