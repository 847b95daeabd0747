"""The trials of a sweep, laid out before any runs: which candidates, with which values, with which seeds.

All of it follows from the settings: trials are the same on any machine, and in whatever order they are carried out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import OptionError
from zoo.planning.request import Request, make_request, parse_input_size
from zoo.specs.recipe import SET_AS_A_WHOLE
from zoo.sweeping.knobs import HEAD_OPTION, ValueRange
from zoo.sweeping.settings import MOST, SweepSettings
from zoo.text import counted

_ATTEMPTS = 20
"""Draws for each candidate that is wanted, before it is believed that there are no others."""
_NAMES = ("backbone", "weights", "head", "recipe")
_NUMBERS = ("epochs", "batch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepTrial:
    """One training: a candidate with a seed."""

    number: int
    """Counted from 1."""
    candidate: int
    """Which candidate, counted from 1: trials that differ in their seed alone have the same."""
    seed: int
    settings: Mapping[str, str]
    """The value of every knob that the sweep gives."""

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.number:05d}"

    @property
    def described(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def lay_out(settings: SweepSettings, whole: Callable[[str], bool]) -> tuple[SweepTrial, ...]:
    """Lay out all trials: every candidate with every seed.

    Of a grid of lists, all candidates, or as many as `trials` allows, drawn without repeats. With a range among the
    knobs there are as many candidates as `trials` allows, and the combinations of lists take turns.

    Args:
        settings: What is asked for.
        whole: Whether a knob takes whole numbers.

    Raises OptionError for ranges without `trials`, and for too many trials.
    """
    lists = {name: each for name, each in settings.over.items() if not isinstance(each, ValueRange)}
    ranges = {name: each for name, each in settings.over.items() if isinstance(each, ValueRange)}
    grid = math.prod(len(each) for each in lists.values())
    wanted = settings.trials // settings.seeds if settings.trials is not None else None
    if ranges and wanted is None:
        name, values = next(iter(ranges.items()))
        raise OptionError(
            f"--over {name}={values} is a range, which has no end of values.\n"
            f"Next: say how many trials there may be: --trials {max(20, 10 * settings.seeds)}"
        )
    if wanted is None and grid * settings.seeds > MOST:
        raise OptionError(
            f"The grid has {counted(grid, 'candidate')}, with {counted(settings.seeds, 'seed')} each "
            f"{grid * settings.seeds:,} trials, more than {MOST:,}.\nNext: --trials N draws some of them."
        )
    if ranges:
        assert wanted is not None
        combinations = _with_ranges(settings, lists, ranges, wanted, whole)
    else:
        combinations = [_combination(lists, index) for index in _chosen(grid, wanted, settings.seed)]
    order = list(settings.over)
    # A number is of a place in the grid. A trial that is left out later, for no seed changes it, leaves a gap, so that
    # rows and run folders keep their names.
    return tuple(
        SweepTrial(
            number=(candidate - 1) * settings.seeds + seed + 1,
            candidate=candidate,
            seed=seed,
            settings={name: values[name] for name in order},
        )
        for candidate, values in enumerate(combinations, start=1)
        for seed in range(settings.seeds)
    )


def request_of(trial: SweepTrial, settings: SweepSettings, data: str, *, workers: int | None = None) -> Request:
    """What `zoo finetune` would be asked for to get this trial. Raises OptionError for values that cannot be."""
    given = trial.settings
    arguments: dict[str, Any] = {name: given[name] for name in _NAMES if name in given}
    # At the first equals sign: names of backbones have none, paths may.
    backbone, equals, weights = arguments["backbone"].partition("=")
    if equals:
        if "weights" in arguments:
            raise OptionError(
                f"{arguments['backbone']!r} names weights, and weights={arguments['weights']!r} does too.\n"
                "Next: leave one of the two out."
            )
        arguments |= {"backbone": backbone, "weights": weights}
    arguments |= {name: _whole(name, given[name]) for name in _NUMBERS if name in given}
    if "input_size" in given:
        arguments["input_size"] = parse_input_size(given["input_size"])
    return make_request(
        **arguments,
        head_options={
            name.removeprefix(HEAD_OPTION): value for name, value in given.items() if name.startswith(HEAD_OPTION)
        },
        set=tuple(
            f"{name}={value}"
            for name, value in given.items()
            if name in SET_AS_A_WHOLE or ("." in name and not name.startswith(HEAD_OPTION))
        ),
        data=data,
        seed=trial.seed,
        device=settings.device,
        precision=settings.precision,
        tune=False,  # what is measured beside other trials differs from one to the next
        offline=settings.offline,
        workers=workers,
    )


def _chosen(grid: int, wanted: int | None, seed: int) -> list[int]:
    if wanted is None or wanted >= grid:
        return list(range(grid))
    # `range` is drawn from without being laid out: a grid may have more points than fit into memory.
    return sorted(random.Random(f"sweep/{seed}/grid").sample(range(grid), wanted))


def _combination(lists: Mapping[str, tuple[str, ...]], index: int) -> dict[str, str]:
    """One point of the grid; the last knob changes fastest."""
    values: dict[str, str] = {}
    for name in reversed(list(lists)):
        index, place = divmod(index, len(lists[name]))
        values[name] = lists[name][place]
    return values


def _with_ranges(
    settings: SweepSettings,
    lists: Mapping[str, tuple[str, ...]],
    ranges: Mapping[str, ValueRange],
    wanted: int,
    whole: Callable[[str], bool],
) -> list[dict[str, str]]:
    """As many candidates as are wanted, or fewer where ranges of whole numbers have no more; none twice."""
    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    turns = _turns(math.prod(len(each) for each in lists.values()), settings.seed)
    for number in range(_ATTEMPTS * wanted):
        values = _combination(lists, next(turns))
        for name, each in ranges.items():
            # The key names the knob, so that another knob beside it does not change what this one draws.
            values[name] = each.draw(f"sweep/{settings.seed}/{name}/{number}", whole=whole(name))
        found.setdefault(tuple(sorted(values.items())), values)
        if len(found) == wanted:
            break
    return list(found.values())


def _turns(grid: int, seed: int) -> Iterator[int]:
    """All combinations of lists in a random order, again and again, in another order each time."""
    around = 0
    while True:
        if grid > MOST:  # more than can be gone through
            yield random.Random(f"sweep/{seed}/turn/{around}").randrange(grid)
        else:
            yield from random.Random(f"sweep/{seed}/turn/{around}").sample(range(grid), grid)
        around += 1


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"{name}={text!r} is no whole number.\nNext: give one, such as {name}=32.") from None
