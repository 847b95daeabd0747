"""The arguments of the public functions: names that had another one before or do not exist, values of another type."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, replace
from numbers import Real
from os import PathLike
from types import MappingProxyType
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from zoo.errors import OptionError, either, nearest
from zoo.planning.request import Request, check_seed

_P = ParamSpec("_P")
_R = TypeVar("_R")

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((SupportsIndex,), "a whole number"),
    "float": ((Real,), "a number"),
    "bool": ((bool,), "True or False"),
    "str | PathLike[str]": ((str, PathLike), "a path"),
    "str | Path": ((str, PathLike), "a path"),
}
"""Annotation of a parameter, without `| None` -> what a value may be, and in words. Numbers of numpy are numbers."""

_AS_TEXT = ("set", "over", "head_option")
"""Options whose value is a text of its own grammar, which an argument in Python need not be."""
_OPTION = re.compile(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)\b")
_QUOTE = "'"
_COMMAND = re.compile(r"(?:^|: |\bor )zoo ")
_STEP = re.compile(r"(?:(?<=: )|(?<= add )|(?<= or ))--([a-z][a-z0-9-]*) ('[^']*'|[^\s,;']*[^\s,;.'])")


def checked_arguments(
    renamed: Mapping[str, str] = MappingProxyType({}), *, moved: Mapping[str, Callable[..., Any]] = MappingProxyType({})
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator for a public function, which answers calls with arguments that it does not take.

    A name of an earlier version goes on working, with a DeprecationWarning. For any other, Python's TypeError says the
    nearest name. A value that is not the number, the truth value or the path that its parameter is annotated with is an
    OptionError, before anything runs.

    Args:
        renamed: Old name -> new name. An old name that the function now uses for something else means the old one where
            its value is callable: `report=` was the function that is called with events.
        moved: Old name -> the public function that does now what that argument did; it is called with the argument's
            value first, and with the others by name.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        parameters = inspect.signature(function).parameters
        known = list(parameters)
        # What comes after these belongs to `*runs`, or is one too many.
        places = [name for name in known if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
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
            # What checks a value deeper down names it as on the command line, which calls these functions as well.
            with _in_words_of_python(called, known):
                return run(args, given)

        def run(args: tuple[Any, ...], given: dict[str, Any]) -> _R:
            plain: Any = [checked(name, value) for name, value in zip(places, args, strict=False)]
            # Too many are left to Python, whose error names the function.
            plain += args[len(places) :]
            named: Any = {name: checked(name, value) for name, value in given.items()}
            return function(*plain, **named)

        def checked(name: str, value: object) -> object:
            if isinstance(value, Request):
                # Its fields are the arguments of that name, and `Request` itself takes any value.
                names = [each.name for each in fields(value) if each.name in parameters]
                held: dict[str, Any] = {each: checked(each, getattr(value, each)) for each in names}
                return replace(value, **held)
            value = _checked(called, parameters[name], value)
            if isinstance(value, str) and not value and _may_be_path(parameters[name]):
                # It would be the working folder.
                raise OptionError(f"zoo.{called}(): {name} is empty.\nNext: give it a value.")
            if name == "seed" and value is not None:
                check_seed(value)
            return value

        return call

    return decorate


@contextlib.contextmanager
def _in_words_of_python(called: str, known: Collection[str]) -> Iterator[None]:
    """Let an error about an option of the command line name the argument of this function, as its neighbours do."""
    try:
        yield
    except OptionError as error:
        text = str(error)
        begin = _OPTION.match(text)
        if begin is not None and (begin[1].replace("-", "_") in {*known} - {*_AS_TEXT}):
            error.on_command_line = text
            error.args = (f"zoo.{called}(): {_with_arguments(text, known)}",)
        raise


def _with_arguments(text: str, known: Collection[str]) -> str:
    """`Next: --folds 5; or leave --every-stage out` -> `Next: folds=5; or leave every_stage out`."""

    def argument(found: re.Match[str]) -> str:
        name, value = found[1].replace("-", "_"), found[2] if found.re is _STEP else None
        if name not in known or name in _AS_TEXT:
            return found[0]
        # A path may stand in quotes already, for the shell.
        return name if value is None else f"{name}={value if value.isdecimal() else repr(value.strip(_QUOTE))}"

    # A line that is a command of the shell stays one.
    return "\n".join(
        line if _COMMAND.search(line) else _OPTION.sub(argument, _STEP.sub(argument, line)) for line in text.split("\n")
    )


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


def _may_be_path(parameter: inspect.Parameter) -> bool:
    return parameter.name == "weights" or any(word in str(parameter.annotation) for word in ("Path", "DataLike"))


def _checked(called: str, parameter: inspect.Parameter, value: object) -> object:
    """The value as Python's own: what is recorded is JSON, which knows no number of numpy. Raises OptionError."""
    annotation = str(parameter.annotation)
    kind = annotation.removesuffix(" | None")
    # Several runs in a row are checked by their function, which also takes them as one list, `verbose` by what shows.
    elsewhere = parameter.kind is parameter.VAR_POSITIONAL or parameter.name == "verbose"
    # Annotations are texts here, as this package postpones them: nothing has to be imported to compare them.
    if kind not in _TYPES or elsewhere or (value is None and kind != annotation):
        return value
    types, words = _TYPES[kind]
    if PathLike in types and isinstance(value, Collection):
        return value  # data in memory, of which the function has more to say
    truth = isinstance(value, bool) or _is_numpy_bool(value)
    # True is a whole number to Python, and nobody means it as one. 0 and 1 are often written for False and True.
    if truth or value in (0, 1) if kind == "bool" else isinstance(value, types) and not truth:
        with contextlib.suppress(TypeError):  # an array of several numbers
            return _PLAIN.get(kind, _as_it_is)(value)
    raise OptionError(
        f"zoo.{called}(): {parameter.name} must be {words}, got {repr(value)[:100]}.\n"
        f"Next: give it as that; help(zoo.{called}) describes it."
    )


def _number(value: Any) -> int | float:
    return value if isinstance(value, int | float) else float(value)


def _as_it_is(value: Any) -> Any:
    return value


_PLAIN: dict[str, Callable[[Any], Any]] = {"int": operator.index, "float": _number, "bool": bool}


def _is_numpy_bool(value: object) -> bool:
    """Whether it is a truth value of numpy, as comparing arrays gives; told without importing numpy."""
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")
