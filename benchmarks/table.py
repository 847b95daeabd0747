"""Markdown tables of the rows: means with intervals, and whether zoo ever kept less than its head-only stage."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.campaign import DEFAULT, FIRST
from benchmarks.paired import Pair, Variant, about, interval, paired
from benchmarks.rows import Row
from benchmarks.verdict import joined, judged_variant, verdict

_COLUMNS = (
    "program",
    "recipe",
    "head",
    "seeds",
    "accuracy, mean ± 95 %",
    "seconds, median",
    "process",
    "CPU",
    "peak MB",
    "kept",
)


def tables(rows: Sequence[Row], *, judge: str = "") -> str:
    """Everything that the rows say, as Markdown; `judge` names the variant that is set beside the others.

    Raises LookupError where no row is of that name.
    """
    pairs: dict[Pair, dict[Variant, list[Row]]] = {}
    for row in rows:
        pair, variant = about(row, backbone=FIRST)
        pairs.setdefault(pair, {}).setdefault(variant, []).append(row)
    results = paired(rows, backbone=FIRST)
    judged = judged_variant(results, judge)
    beside = verdict(results, judged) if judged else ""
    parts = [*(_table(pair, variants) for pair, variants in pairs.items()), beside, head_verdict(rows)]
    return "\n\n".join(filter(None, parts))


def head_verdict(rows: Sequence[Row]) -> str:
    """Whether a head-only stage was ever better, on the images that choose, than what zoo kept; nothing without one."""
    looked = 0
    faults = []
    for row in rows:
        alone = [stage["accuracy"] for stage in row.get("stages", []) if stage["head_only"]]
        looked += bool(alone)
        if alone and max(alone) > row["selection_accuracy"]:
            pair, variant = about(row, backbone=FIRST)
            both = f"{max(alone):.3f} > {row['selection_accuracy']:.3f}"
            faults.append(f"- {pair}: {variant}, seed {row['run']['seed']}: {both}")
    if faults:
        return "\n".join([f"In {len(faults)} of {looked} runs the head alone was better than what was kept:", *faults])
    found = (
        f"In none of {looked} runs with a head-only stage was it better on the images that choose than what was kept."
    )
    return found if looked else ""


def _table(pair: Pair, variants: dict[Variant, list[Row]]) -> str:
    judged = dict.fromkeys(row["judged"] for rows in variants.values() for row in rows if "judged" in row)
    lines = [
        f"### {pair}" + (f" ({', '.join(map(str, judged))} images)" if judged else ""),
        "",
        joined(_COLUMNS),
        "|" + "---|" * len(_COLUMNS),
    ]
    lines += [_line(variant, rows) for variant, rows in variants.items()]
    refused = {variant: row["refused"] for variant, rows in variants.items() for row in rows if "refused" in row}
    lines += [f"\n{variant} was refused: {reason}" for variant, reason in refused.items()]
    return "\n".join(lines)


def _line(variant: Variant, rows: Sequence[Row]) -> str:
    labelled = f" ({variant.label})" if variant.label else ""
    cells = [variant.program + labelled, *(_told(variant, rows[0], key) for key in ("recipe", "head"))]
    done = [row for row in rows if "refused" not in row]
    if not done:
        return joined([*cells, str(len(rows)), "refused", "", "", "", "", ""])
    reached = _mean([row["accuracy"] for row in done])
    own = [row["own_accuracy"] for row in done if "own_accuracy" in row]
    if own:
        reached += f"; {_mean(own)} with its own preprocessing"
    medians = [_median(done, key) for key in ("seconds", "process_seconds", "cpu_seconds", "peak_mb")]
    numbers = [str(len(done)), reached, *medians]
    return joined([*cells, *numbers, _kept(done)])


def _mean(values: Sequence[float]) -> str:
    half = interval(values)
    return f"{statistics.mean(values):.3f}" + ("" if half is None else f" ± {half:.3f}")


def _median(rows: Sequence[Row], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{statistics.median(values):.0f}" if values else ""


def _kept(rows: Sequence[Row]) -> str:
    kept = [row["kept"] for row in rows if "kept" in row]
    return ", ".join(f"{name} {kept.count(name)}" for name in dict.fromkeys(kept))


def _told(variant: Variant, row: Row, key: str) -> str:
    """The recipe or head that was asked for, or what the program took by itself."""
    asked = str(getattr(variant, key))
    taken = str(row.get(key, ""))
    return f"{taken} ({DEFAULT})" if asked == DEFAULT and taken else asked or taken
