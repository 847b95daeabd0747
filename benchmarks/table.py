"""Markdown tables of the rows: means with intervals, and whether zoo ever kept less than its head-only stage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from benchmarks.rows import Row

# Student's t for 95 % (0.975 quantile) at 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
_NORMAL = 1.960


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    quantile = _T[degrees - 1] if degrees <= len(_T) else _NORMAL
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def tables(rows: Sequence[Row]) -> str:
    """Everything that the rows say, as Markdown."""
    parts = [_table(name, [row for row in rows if row["run"]["data"] == name]) for name in _unique(rows)]
    return "\n\n".join([*parts, head_verdict(rows)])


def head_verdict(rows: Sequence[Row]) -> str:
    """Whether a head-only stage was ever better, on the half that chooses, than what zoo kept."""
    looked = 0
    faults = []
    for row in rows:
        alone = [stage["accuracy"] for stage in row.get("stages", []) if stage["head_only"]]
        looked += bool(alone)
        if alone and max(alone) > row["selection_accuracy"]:
            both = f"{max(alone):.3f} > {row['selection_accuracy']:.3f}"
            faults.append(f"- {_name(row)}, seed {row['run']['seed']}: {both}")
    if faults:
        return "\n".join([f"In {len(faults)} of {looked} runs the head alone was better than what was kept:", *faults])
    return f"In none of {looked} runs with a head-only stage was it better on the selection half than what was kept."


def _table(data: str, rows: Sequence[Row]) -> str:
    lines = [
        f"### {data}",
        "",
        "| program | recipe | head | seeds | accuracy, mean ± 95 % | seconds, median | process | peak MB | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_name(row), []).append(row)
    lines += [_line(group) for group in groups.values()]
    refused = [group[0] for group in groups.values() if "refused" in group[0]]
    lines += [f"\n{_name(row)} was refused: {row['refused']}" for row in refused]
    return "\n".join(lines)


def _line(rows: Sequence[Row]) -> str:
    cells = [_program(rows[0]), _recipe(rows[0]), _head(rows[0])]
    done = [row for row in rows if "refused" not in row]
    if not done:
        return _joined([*cells, str(len(rows)), "refused", "", "", "", ""])
    reached = _mean([row["accuracy"] for row in done])
    own = [row["own_accuracy"] for row in done if "own_accuracy" in row]
    if own:
        reached += f"; {_mean(own)} with its own preprocessing"
    medians = [statistics.median(row[key] for row in done) for key in ("seconds", "process_seconds", "peak_mb")]
    numbers = [str(len(done)), reached, *(f"{median:.0f}" for median in medians)]
    return _joined([*cells, *numbers, _kept(done)])


def _mean(values: Sequence[float]) -> str:
    half = interval(values)
    return f"{statistics.mean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _kept(rows: Sequence[Row]) -> str:
    kept = [row["kept"] for row in rows if "kept" in row]
    return ", ".join(f"{name} {kept.count(name)}" for name in dict.fromkeys(kept))


def _name(row: Row) -> str:
    return ", ".join([row["run"]["data"], _program(row), _recipe(row), _head(row), *row["run"]["settings"]])


def _program(row: Row) -> str:
    label = row["run"]["label"]
    return f"{row['run']['program']} ({label})" if label else str(row["run"]["program"])


def _recipe(row: Row) -> str:
    return str(row["run"]["recipe"] or row["recipe"])


def _head(row: Row) -> str:
    return str(row["run"]["head"] or row["head"])


def _unique(rows: Sequence[Row]) -> Iterator[str]:
    return iter(dict.fromkeys(row["run"]["data"] for row in rows))
