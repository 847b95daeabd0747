"""Public functions show how far they are, wherever somebody may be waiting."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from zoo.display.shown import shown
from zoo.events import Progress, Report, silent

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SLOW = ("torch", "torchvision")
"""What takes seconds to import, the first time in a process."""


def with_progress(*, torch: bool = True) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator for a public function with `on_event` and `verbose`: inside, `on_event` also shows what goes on.

    It reads `verbose`, which the function has for its signature: `zoo.display.shown` says what the values mean.

    Args:
        torch: Whether the function needs torch, whose import is shown as well.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **given: _P.kwargs) -> _R:
            options: dict[str, Any] = dict(given)
            verbose = options.get("verbose")
            if verbose is not None and not isinstance(verbose, bool):
                raise TypeError(f"zoo.{function.__name__}(verbose=...) takes True, False or None, got {verbose!r}")
            asked = options.get("on_event")
            with shown(asked, verbose) as report:
                # Only where somebody watches: for all others torch is imported when it is needed, if at all.
                if torch and report is not asked and report is not silent:
                    _import_slow(report)
                return cast("Callable[..., _R]", function)(*args, **{**options, "on_event": report})

        return call

    return decorate


def _import_slow(report: Report) -> None:
    if all(name in sys.modules for name in _SLOW):
        return
    for done, name in enumerate(_SLOW):
        report(Progress(task="load torch", done=done, total=len(_SLOW), unit="libraries"))
        importlib.import_module(name)
    report(Progress(task="load torch", done=len(_SLOW), total=len(_SLOW), unit="libraries"))
