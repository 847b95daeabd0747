"""Many trials at once: `zoo.sweep`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.arguments import checked_arguments
from zoo.api.calls import with_data
from zoo.api.progress import with_progress
from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from zoo.specs.data import DataLike
    from zoo.sweeping.sweep_record import Sweep


@checked_arguments({"report": "on_event"})
@with_progress()
def sweep(
    file: str | PathLike[str] | None = None,
    *,
    data: DataLike | None = None,
    backbone: str | Sequence[str] | None = None,
    head: str | Sequence[str] | None = None,
    recipe: str | Sequence[str] | None = None,
    over: Mapping[str, Any] | Sequence[str] = (),
    seeds: int | None = None,
    trials: int | None = None,
    on: str = "local",
    at_once: int | None = None,
    out: str | Path | None = None,
    resume: str | PathLike[str] | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Sweep:
    """Try many settings on the same images, and judge the best once on images that chose nothing.

    The images are divided before anything runs: trials are trained on train and compared on val; the winner is judged
    on the data's own test, else on a holdout that is drawn from train. Trials whose stages train the head alone share
    their features in one process, and leave a row; others are runs with a folder, each in a worker process. Either way
    a trial has the scores of `zoo.finetune` with its settings. docs/sweep.md has more.

    Args:
        file: A sweep file (TOML) with the keys data, backbone, head, recipe, seeds, trials, seed, device, precision and
            the table over. What is given here as well replaces it.
        data: The images, as for `finetune`; those of an object in memory are copied into the sweep's folder.
        backbone: Names: `NAME`, `NAME=FILE` or `NAME=random`; one text may hold several with commas.
        head: Names of heads, likewise. Default: `dropout_linear`.
        recipe: Names of recipes or their files, likewise. Default: as for `finetune`.
        over: What else varies: `{"head.lr": "1e-4..1e-2", "head.epochs": [10, 20]}`, or the texts of `--over`. A list
            is tried value by value. A range is drawn from, on a logarithmic scale where it is above zero and spans a
            factor of ten or more, evenly elsewhere.
        seeds: Trials of each candidate, with seeds 0, 1, ... Default: 1.
        trials: Most trials. Where the grid has more, candidates are drawn from it, none twice. Needed for ranges.
        on: Where runs are trained: `local`, `ray` (a Ray of this machine), `auto` (the cluster of this machine, or that
            of RAY_ADDRESS), `HOST:PORT` or `ray://HOST:PORT`.
        at_once: Runs that are trained at once, with equal shares of the cores. Default: one for each two cores, or one
            a graphics card.
        out: The folder, which must not exist. Default: a new one under `sweeps/`.
        resume: The folder of a stopped sweep: trials that ended are kept. Settings that are given as well must be its
            own.
        seed: Draws candidates, values of ranges, and images. Default: 0.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. Default: `auto`.
        precision: `float32` or `bfloat16`. Default: `float32`.
        offline: Use no network.
        on_event: Called with Progress and Note.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins, which are all that workers have.

    Raises:
        Refused: Unknown knobs, values that cannot be, an empty grid, a finished sweep or another one; nothing ran.
        DataError: The images cannot be used or divided; or they have changed since the sweep began.
        RunError: The folder cannot be read or written, or no trial succeeded.
        CheckFailed: The winner, trained as a run, does not have the scores of its trial.
    """
    from zoo.sweeping.knobs import named, parse_over, parse_values
    from zoo.sweeping.run_sweep import HowToRun, go_on, start
    from zoo.sweeping.settings import settings_beside, settings_of, stored_settings

    place, known = with_data(data, registry or default_registry(), on_event)
    given: dict[str, Any] = {
        "data": place,
        "backbone": backbone,
        "head": head,
        "recipe": recipe,
        "seeds": seeds,
        "trials": trials,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    if isinstance(over, Mapping):
        knobs = {named(name): parse_values(name, values) for name, values in over.items()}
    else:
        knobs = parse_over([over] if isinstance(over, str) else over)
    # Apart from the settings, which say what is tried: where it runs may be another place when it is resumed.
    how = HowToRun(on=on, at_once=at_once)
    # Beside `resume` nothing need be said again. What is said all the same must be what the sweep has.
    asks = file is not None or bool(knobs) or any(value is not None for value in given.values())
    asked = None
    if asks or resume is None:
        # A file says everything anew; without one, single values replace those that the sweep has stored.
        if resume is None or file is not None:
            asked = settings_of(given, knobs, None if file is None else Path(file), offline=offline)
        else:
            asked = settings_beside(stored_settings(Path(resume).expanduser())[0], given, knobs)
    if resume is None:
        assert asked is not None, "settings are needed where nothing is resumed"
        return start(asked, known, on_event, how, out=None if out is None else Path(out).expanduser())
    if out is not None:
        raise OptionError("--resume goes on in its own folder; --out says another.\nNext: leave --out out.")
    return go_on(Path(resume).expanduser(), known, on_event, how, asked=asked, offline=offline)
