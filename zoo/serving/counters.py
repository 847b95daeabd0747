"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class Histogram:
    """How many values are at most as large as each bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        # One more than bounds, for what is above all of them.
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        # `le` is "at most": a value that equals a bound belongs to that bound's bucket.
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        """The lines of the text format; `labels` as `path="/predict"`."""
        before = f"{labels}," if labels else ""
        total = 0
        for bound, count in zip([*(f"{each:g}" for each in self._bounds), "+Inf"], self._counts, strict=True):
            # Buckets of the text format hold what is in all smaller ones, too.
            total += count
            yield f'{name}_bucket{{{before}le="{bound}"}} {total}'
        among = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{among} {self._sum:.6f}"
        yield f"{name}_count{among} {total}"


class Counters:
    """Everything that is counted. Any thread may count."""

    def __init__(self, *, digest: str, version: str) -> None:
        self._info = {"digest": digest, "version": version}
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._images: Counter[str] = Counter()
        self._batch_sizes = Histogram(_SIZES)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered, or left by its client (499)."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds.setdefault(path, Histogram(_SECONDS)).add(seconds)

    def images(self, outcome: str, count: int = 1) -> None:
        """Count images by what came of them: `sure`, `unsure`, `refused`, `explained`."""
        with self._lock:
            self._images[outcome] += count

    def batch(self, size: int) -> None:
        """Count a batch of so many images."""
        with self._lock:
            self._batch_sizes.add(size)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """The whole text. `gauges`: name -> what it means, and its value now."""
        with self._lock:
            return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
        yield from _head("zoo_info", "gauge", "The classifier that answers.")
        yield "zoo_info{" + ",".join(f'{name}="{escaped(value)}"' for name, value in self._info.items()) + "} 1"
        yield from _head("zoo_requests_total", "counter", "Requests by path and status; 499: the client left.")
        for (path, status), count in sorted(self._requests.items()):
            yield f'zoo_requests_total{{path="{escaped(path)}",status="{status}"}} {count}'
        yield from _head("zoo_request_seconds", "histogram", "Seconds from a request's first byte to its answer.")
        for path, histogram in sorted(self._seconds.items()):
            yield from histogram.lines("zoo_request_seconds", f'path="{escaped(path)}"')
        yield from _head("zoo_images_total", "counter", "Images by what came of them.")
        for outcome, count in sorted(self._images.items()):
            yield f'zoo_images_total{{outcome="{outcome}"}} {count}'
        yield from _head("zoo_batch_images", "histogram", "Images that were computed together.")
        yield from self._batch_sizes.lines("zoo_batch_images")
        for name, (meaning, value) in gauges.items():
            yield from _head(name, "gauge", meaning)
            yield f"{name} {value:g}"


def resident_bytes() -> int | None:
    """Memory that this process has, where the system tells it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def escaped(text: str) -> str:
    """A label's value."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
