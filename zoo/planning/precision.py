"""The precision and memory layout that a run computes in. Both change the last bits, so noise must not decide.

What a table knows of the processor and the network is taken from there; the rest is measured once, and stored for this
machine. A simpler choice stands unless another is at least 1.2 times as fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from zoo.errors import DeviceError, OptionError, first_line, meant
from zoo.events import Note, Report
from zoo.model.devices import machine_facts
from zoo.model.model import ZooModel
from zoo.planning.network_kind import network_work
from zoo.planning.pass_times import Measured, time_candidates
from zoo.planning.precision_table import Known, Work, lookup, processor_kind, read_table
from zoo.specs.plan import Compute, ComputeOrigin, Precision
from zoo.storage.cache import cached_json
from zoo.storage.eviction import IN_TURNS, MEASURED, METHOD, SPEEDS

_LAYOUT, _HALF = Compute("float32", "channels_last"), Compute("bfloat16", "channels_last")


@dataclass(frozen=True, slots=True)
class ComputeChoice:
    """A choice of precision and memory layout."""

    compute: Compute
    speeds: dict[str, float]
    """Images per second of every candidate that was measured; empty where none was."""
    origin: ComputeOrigin | None = None
    """Whence it came; None where a stored plan does not say."""


def check_precision(asked: str) -> None:
    """Raise OptionError for anything but `auto` and the names of precisions."""
    known = ("auto", *get_args(Precision))
    if asked not in known:
        also = {"bf16": "bfloat16", "fp32": "float32"}.get(str(asked).lower())
        hint = f" Did you mean {also!r}?" if also else meant(str(asked), known, count=1)
        raise OptionError(
            f"--precision {asked!r} is not one of {', '.join(known)}.{hint}\n"
            "Next: leave --precision out, and zoo measures what is faster."
        )


def choose_compute(
    build: Callable[[], ZooModel],
    outline: Callable[[], ZooModel],
    *,
    name: str,
    device: str,
    trains: bool,
    precision: str,
    tune: bool,
    report: Report,
) -> ComputeChoice:
    """Choose how the backbone computes.

    Args:
        build: Makes a model of the run's shapes. Its values do not matter.
        outline: Makes the same model on the meta device.
        name: Backbone, weights and input size. Measurements are stored under it for this machine.
        device: The device that the run computes on.
        trains: Whether the run trains the backbone. Then forward and backward passes are timed, else forward alone.
        precision: `auto`, `float32` or `bfloat16`.
        tune: Whether the table is asked and what it does not know is measured. If not, the default or the asked
            precision is taken.
        report: Told when a measurement begins.
    """
    candidates = _candidates(precision)
    work: Work = "training" if trains else "inference"
    if not tune:
        return _simplest(candidates, precision, "for nothing was to be measured")
    known = _known(outline, device, work, candidates)
    if known is not None:
        return ComputeChoice(known.compute, {}, ComputeOrigin(by="table", asked=precision, why=known.why))
    return _measured(build, candidates, name=name, device=device, work=work, precision=precision, report=report)


def _simplest(candidates: Sequence[Compute], precision: str, why: str) -> ComputeChoice:
    """What stands where neither the table nor a measurement chose. `why` says so of the default."""
    default = ComputeOrigin(by="default", asked=precision, why=why)
    asked = ComputeOrigin(by="asked", asked=precision, why="in its simplest layout")
    return ComputeChoice(candidates[0], {}, default if precision == "auto" else asked)


def _candidates(precision: str) -> list[Compute]:
    """The candidates, the simplest first."""
    if precision == "float32":
        return [Compute(), _LAYOUT]
    return [Compute("bfloat16"), _HALF] if precision == "bfloat16" else [Compute(), _LAYOUT, _HALF]


def _known(outline: Callable[[], ZooModel], device: str, work: Work, candidates: Sequence[Compute]) -> Known | None:
    """What the table says; None where it does not know."""
    # The table knows processors alone. The empty name, of a GPU and of a processor of no known kind, has no rows.
    processor = processor_kind() if device == "cpu" else ""
    rows = [row for row in read_table() if row.processor == processor]
    if not rows:
        return None
    try:
        network = network_work(outline())
    except Exception:  # code that cannot do without values: it is measured
        return None
    return lookup(rows, processor, network, work, candidates)


def _measured(
    build: Callable[[], ZooModel],
    candidates: Sequence[Compute],
    *,
    name: str,
    device: str,
    work: Work,
    precision: str,
    report: Report,
) -> ComputeChoice:
    """What is stored for this machine, this torch and this model, or is measured now and stored.

    A measurement that could not tell is stored, too: the next run has the same bytes. Those of before candidates took
    turns have other names, and are not read: what a busy machine made of them would stay for ever. Nothing is stored
    where memory ran out, for the same reason: the simplest choice stands for this run, and the next one measures again.
    """
    # Everything that may change which candidate is fastest. Another torch or another number of threads measures anew.
    machine = machine_facts(device)
    key = hashlib.sha256("\n".join([name, work, precision, *machine, IN_TURNS]).encode()).hexdigest()[:24]

    def make() -> dict[str, Any]:
        report(Note(text="Measuring once which precision and memory layout are fastest here. See: zoo cache show"))
        found: Measured = time_candidates(build, candidates, device=device, trains=work == "training", report=report)
        # All but the choice and the speeds is for people: `zoo cache show` prints it.
        return {
            "of": name,
            "work": work,
            "precision": precision,
            "machine": machine,
            "measured": datetime.now(UTC).isoformat("T", "seconds"),
            "chosen": str(found.compute),
            SPEEDS: found.rates,
            METHOD: IN_TURNS,
            "certain": found.certain,
            "turns": found.turns,
        }

    try:
        kept = cached_json(f"{MEASURED}{key}.json", make)
    except DeviceError as error:
        report(Note(text=f"{first_line(error)}. This run computes in {candidates[0]}; the next one measures again."))
        return _simplest(candidates, precision, "for memory ran out while they were measured")
    # What is stored is always one of these: `precision`, which alone decides on the candidates, is in the key.
    named = {str(each): each for each in candidates}
    turns = f"in {kept['turns']} turns on this machine"
    why = f"measured {turns}" if kept["certain"] else f"{turns} none was surely 1.2 times as fast"
    origin = ComputeOrigin(by="measured", asked=precision, why=why)
    rates = {str(each): float(rate) for each, rate in kept[SPEEDS].items()}
    return ComputeChoice(named[kept["chosen"]], rates, origin)
