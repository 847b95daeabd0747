"""Results paired by network, set and seed: how far one variant is above another, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.sweeping.sweep_record import t_quantile

from benchmarks.rows import Row, run_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A network and a set."""

    backbone: str
    weights: str
    data: str
    per_class: int

    def __str__(self) -> str:
        few = f"{self.per_class} a class" if self.per_class else ""
        return ", ".join(filter(None, [self.data, few, self.backbone, Path(self.weights).name]))


@dataclass(frozen=True, slots=True)
class Variant:
    """A program and what it was told."""

    program: str
    recipe: str
    head: str
    settings: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        words = [self.program, Path(self.recipe).name, self.head, *self.settings]
        return " ".join(filter(None, [*words, f"({self.label})" if self.label else ""]))


BySeed = Mapping[int, Row]
Results = Mapping[Variant, Mapping[Pair, BySeed]]


def paired(rows: Iterable[Row], *, backbone: str = "") -> Results:
    """The rows that have an accuracy, by variant, pair and seed; of two about the same run the later one.

    `backbone`: that of rows from before they named it.
    """
    found: dict[Variant, dict[Pair, dict[int, Row]]] = {}
    for row in rows:
        if "accuracy" in row:
            pair, variant = about(row, backbone=backbone)
            found.setdefault(variant, {}).setdefault(pair, {})[row["run"]["seed"]] = row
    return found


def about(row: Row, *, backbone: str = "") -> tuple[Pair, Variant]:
    """What a row is about, but for the seed."""
    run = run_of(row, backbone=backbone)
    pair = Pair(run.backbone, run.weights, run.data, run.per_class)
    return pair, Variant(run.program, run.recipe, run.head, run.settings, run.label)


@dataclass(frozen=True, slots=True)
class Beside:
    """One variant less another on the same pair and seeds."""

    differences: Mapping[int, float]
    """By seed, as shares of the images."""
    seconds: float
    """Median time as a share of the other's."""
    cpu_seconds: float | None
    """The same of processor time; None in rows from before it was kept."""

    @property
    def mean(self) -> float:
        return statistics.mean(self.differences.values())

    @property
    def interval(self) -> float | None:
        return interval([*self.differences.values()])

    @property
    def is_below(self) -> bool:
        """Whether it is below the other by more than its interval; one seed tells nothing."""
        return self.interval is not None and self.mean < -self.interval


def beside(judged: BySeed, other: BySeed) -> Beside | None:
    """By the seeds that both have; None where there is none."""
    seeds = sorted(set(judged) & set(other))
    if not seeds:
        return None
    differences = {seed: judged[seed]["accuracy"] - other[seed]["accuracy"] for seed in seeds}
    rows, others = ([side[seed] for seed in seeds] for side in (judged, other))
    return Beside(differences, _share("seconds", rows, others) or math.nan, _share("cpu_seconds", rows, others))


def better(judged: BySeed, others: Sequence[BySeed]) -> BySeed:
    """That of `others` which has the higher mean, by the seeds that all of them have."""
    seeds = set(judged).intersection(*others)
    alike = [{seed: other[seed] for seed in sorted(seeds)} for other in others]
    return max(alike, key=lambda rows: statistics.mean([row["accuracy"] for row in rows.values()] or [0]))


def overall(found: Sequence[Beside]) -> tuple[float, float | None]:
    """Mean difference over pairs, each of the same weight -> (mean, half of its 95 % interval).

    The interval is that of repeating it with other seeds on the same pairs, by the seeds that all of them have.
    """
    seeds = set(found[0].differences).intersection(*(each.differences for each in found))
    by_seed = [statistics.mean(each.differences[seed] for each in found) for seed in seeds]
    return statistics.mean(each.mean for each in found), interval(by_seed)


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def _share(key: str, rows: Sequence[Row], others: Sequence[Row]) -> float | None:
    if any(key not in row for row in [*rows, *others]):
        return None
    taken, needed = (statistics.median(float(row[key]) for row in side) for side in (rows, others))
    return taken / needed
