"""What is asked of the numbers: medians over the repeats, ratios, differences, and whether they suffice."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import Row

Results = Mapping[str, Sequence[Row]]
"""The rows of a work by program."""
SAME_ACCURACY = 0.005
"""Half a point: less is no difference."""

QUANTITIES: dict[str, Callable[[Row], Any]] = {
    "training parts": lambda row: row["seconds"],
    "whole process": lambda row: row["process_seconds"],
    "stage": lambda row: row["stages"][-1]["seconds"],
    "features": lambda row: row["parts"]["features"],
    "features, earlier run": lambda row: row["earlier"]["parts"]["features"],
    "peak MB": lambda row: row["peak_mb"],
    "accuracy": lambda row: row["accuracy"],
    "images/s": lambda row: row["stages"][-1]["images_per_second"],
    "images/s, fixed batch": lambda row: row["fixed_images_per_second"],
}
"""All but MB, accuracy and images/s are seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One thing that is asked of a work."""

    what: str
    programs: tuple[str, ...]
    """Those that it is about; without rows of each nothing can be said."""
    found: Callable[[Results], float]
    """What is compared with the limit."""
    least: float | None = None
    most: float | None = None

    def line(self, results: Results) -> str:
        """A row of a Markdown table: what, asked, found, met."""
        limit = f"at least {self.least:,g}" if self.least is not None else f"at most {self.most:,g}"
        if any(not results.get(program) for program in self.programs):
            return f"| {self.what} | {limit} | not measured | |"
        found = self.found(results)
        return f"| {self.what} | {limit} | {found:.3g} | {'yes' if self.met(found) else '**no**'} |"

    def met(self, found: float) -> bool:
        return (self.least is None or found >= self.least) and (self.most is None or found <= self.most)


def median(rows: Sequence[Row], quantity: str) -> float | None:
    """Of the rows that have the quantity; None where none has."""
    there = [value for value in (_value(row, quantity) for row in rows) if value is not None]
    return statistics.median(there) if there else None


def faster(times: float, than: str, *, program: str = "zoo", quantity: str = "training parts") -> Asked:
    """`program` takes that many times less than `than`, in medians."""
    return Asked(
        what=f"{quantity}: {program}, times faster than {than}",
        programs=(program, than),
        found=lambda results: _median(results, than, quantity) / _median(results, program, quantity),
        least=times,
    )


def as_accurate(than: str, *, program: str = "zoo") -> Asked:
    """The mean accuracy over the repeats, each a seed, is not lower, but for half a point."""

    def found(results: Results) -> float:
        ours, theirs = (statistics.mean(row["accuracy"] for row in results[each]) for each in (program, than))
        return float(round(ours - theirs, 6))  # 0.005 exactly is no difference, however it is rounded

    what = f"mean accuracy: {program} over {than}"
    return Asked(what=what, programs=(program, than), found=found, least=-SAME_ACCURACY)


def at_most(limit: float, quantity: str, *, program: str = "zoo") -> Asked:
    """The median of a quantity is no more than that."""
    return Asked(
        what=f"{quantity}: {program}",
        programs=(program,),
        found=lambda results: _median(results, program, quantity),
        most=limit,
    )


def no_more_than(limit: float, quantity: str, *, program: str, over: str) -> Asked:
    """The median of a quantity is no more than that above another program's."""
    return Asked(
        what=f"{quantity}: {program} over {over}",
        programs=(program, over),
        found=lambda results: _median(results, program, quantity) - _median(results, over, quantity),
        most=limit,
    )


def share(least: float, quantity: str, of: str, *, program: str = "zoo") -> Asked:
    """One quantity is at least this share of another of the same run, in the median over the runs."""

    def found(results: Results) -> float:
        return float(statistics.median(QUANTITIES[quantity](row) / QUANTITIES[of](row) for row in results[program]))

    return Asked(what=f"{quantity}, as a share of {of}: {program}", programs=(program,), found=found, least=least)


def linear(limit: float, counts: Mapping[str, int], *, quantity: str = "training parts") -> Asked:
    """Each further image costs, between the last two counts, at most this many times what it does between the first."""
    small, middle, large = counts

    def found(results: Results) -> float:
        def each(fewer: str, more: str) -> float:
            seconds = _median(results, more, quantity) - _median(results, fewer, quantity)
            return seconds / (counts[more] - counts[fewer])

        return each(middle, large) / each(small, middle)

    few, some, many = (f"{count:,}" for count in counts.values())
    what = f"{quantity}, of a further image: {some} to {many} over {few} to {some}"
    return Asked(what=what, programs=tuple(counts), found=found, most=limit)


def _median(results: Results, program: str, quantity: str) -> float:
    return float(statistics.median(QUANTITIES[quantity](row) for row in results[program]))


def _value(row: Row, quantity: str) -> float | None:
    try:
        return float(QUANTITIES[quantity](row))
    except (KeyError, IndexError):
        return None
