"""Where the time went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping


class Clock:
    """Adds up seconds by part of the work."""

    def __init__(self, *parts: str) -> None:
        self._began = time.perf_counter()
        self._parts = dict.fromkeys(parts, 0.0)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - began

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what an earlier process took, as its clock's `seconds` said."""
        for part, value in seconds.items():
            if part == "total":
                self._began -= value
            else:
                self._parts[part] = self._parts.get(part, 0.0) + value

    def seconds(self) -> dict[str, float]:
        """`total` since the clock was made, and every part."""
        total = time.perf_counter() - self._began
        return {name: round(value, 3) for name, value in {"total": total, **self._parts}.items()}
