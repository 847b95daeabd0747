"""Public functions show how far they are, wherever somebody may be waiting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from zoo.display.shown import shown

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
