"""Markdown on one variant of zoo beside everything else that ran on the same pairs of network and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.campaign import DEFAULT
from benchmarks.paired import Beside, BySeed, Pair, Results, Variant, beside, better, overall
from benchmarks.programs import PEERS

BETTER_PEER = "the better peer"
_NOTHING = ""


def judged_variant(results: Results, named: str = "") -> Variant | None:
    """The variant of that name or, without a name, zoo's default; None where no row is zoo's.

    Raises LookupError where there is none of that name.
    """
    names = {str(variant): variant for variant in results}
    if named and named not in names:
        raise LookupError(f"no row is of {named!r}; there are: {', '.join(names)}")
    ours = [variant for variant in results if variant.program == "zoo"]
    defaults = [variant for variant in ours if (variant.recipe, variant.head) == (DEFAULT, DEFAULT)]
    return names[named] if named else next(iter([*defaults, *ours]), None)


def verdict(results: Results, judged: Variant) -> str:
    """A summary and a table of pairs for each number of images a class."""
    counts = dict.fromkeys(pair.per_class for pair in results[judged])
    parts = []
    for count in counts:
        pairs = [pair for pair in results[judged] if pair.per_class == count]
        images = f"{count} training images a class" if count else "all training images"
        others = _others(results, judged, pairs)
        if others:
            title = f"### {judged} beside the others, {images}"
            parts += ["\n".join([title, "", _summary(others)]), _pairs(results, judged, pairs, others)]
    return "\n\n".join(filter(None, parts))


def _others(results: Results, judged: Variant, pairs: Sequence[Pair]) -> dict[str, dict[Pair, Beside]]:
    """What it is set beside -> pair -> how far above it is."""
    rows: dict[str, Mapping[Pair, BySeed]] = {
        str(variant): by_pair for variant, by_pair in results.items() if variant != judged
    }
    peers = [rows[name] for name in PEERS if name in rows]
    if len(peers) > 1:
        both = [pair for pair in pairs if all(pair in peer for peer in peers)]
        rows[BETTER_PEER] = {pair: better(results[judged][pair], [peer[pair] for peer in peers]) for pair in both}
    found = {}
    for name, by_pair in rows.items():
        compared = {pair: beside(results[judged][pair], by_pair[pair]) for pair in pairs if pair in by_pair}
        found[name] = {pair: each for pair, each in compared.items() if each is not None}
    return {name: compared for name, compared in found.items() if compared}


def _summary(others: Mapping[str, Mapping[Pair, Beside]]) -> str:
    head = "| beside | pairs | mean difference, points ± 95 % | lowest pair | there | below by more than its interval "
    lines = [head + "| seconds, largest share | CPU, largest share |", "|" + "---|" * 8]
    for name, compared in others.items():
        found = [*compared.values()]
        lowest = min(compared, key=lambda pair: compared[pair].mean)
        shares = [each.cpu_seconds for each in found if each.cpu_seconds is not None]
        cells = [
            name,
            str(len(found)),
            points(*overall(found)),
            str(lowest),
            points(compared[lowest].mean, compared[lowest].interval),
            "; ".join(str(pair) for pair, each in compared.items() if each.is_below) or "nowhere",
            f"{max(each.seconds for each in found):.2f}",
            f"{max(shares):.2f}" if shares else _NOTHING,
        ]
        lines.append(joined(cells))
    return "\n".join(lines)


def _pairs(
    results: Results, judged: Variant, pairs: Sequence[Pair], others: Mapping[str, Mapping[Pair, Beside]]
) -> str:
    """Pair by pair, accuracies of the judged and how far it is above each other."""
    lines = [joined(["pair", "seeds", str(judged), *(f"less {name}" for name in others)])]
    lines.append("|" + "---|" * (len(others) + 3))
    for pair in pairs:
        rows = results[judged][pair].values()
        reached = sum(row["accuracy"] for row in rows) / len(rows)
        cells = [points(found.mean, found.interval) if found else _NOTHING for found in _at(pair, others)]
        lines.append(joined([str(pair), str(len(rows)), f"{reached:.3f}", *cells]))
    return "\n".join(lines)


def _at(pair: Pair, others: Mapping[str, Mapping[Pair, Beside]]) -> list[Beside | None]:
    return [compared.get(pair) for compared in others.values()]


def points(mean: float, half: float | None) -> str:
    """A difference of accuracies in points of a hundred."""
    return f"{100 * mean:+.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def joined(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
