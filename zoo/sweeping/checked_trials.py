"""Every trial looked up before any runs: names, values, what each trains, and how it is carried out.

A trial that could not run is refused here, with what is wrong with it, before an hour was spent on the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from zoo.data.dataset import Dataset
from zoo.errors import OptionError, UnknownName, ZooError, either, nearest
from zoo.events import Progress, Report, silent
from zoo.planning.build_plan import plan_stages
from zoo.planning.request import Request, make_request
from zoo.planning.resolve import find_recipe, resolve
from zoo.registry.registry import Registry
from zoo.specs.plan import Precision
from zoo.specs.recipe import BALANCED
from zoo.sweeping.grid import SweepTrial, lay_out, request_of
from zoo.sweeping.kept_features import draws_nothing, features_key, trains_on_features
from zoo.sweeping.knobs import HEAD_OPTION, ValueRange, as_over, check_name, is_whole
from zoo.sweeping.settings import SweepSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedTrial:
    """A trial that can run."""

    trial: SweepTrial
    request: Request
    """What `zoo finetune` would be asked for."""
    features: Hashable | None
    """What trials with the same features have in common; None for a trial that needs the backbone in its stages."""
    draws: bool
    """Whether its seed changes anything."""
    balanced: bool
    """Whether its `choose_by` lets every class count the same."""


def trials_of(settings: SweepSettings, registry: Registry) -> tuple[SweepTrial, ...]:
    """Lay out the trials of a sweep, once every knob is known to exist. No image is looked at.

    Raises:
        OptionError: A knob that does not exist, or that not every trial has; ranges without `--trials`.
        UnknownName, RecipeError: Names and recipe files that cannot be had.
    """
    heads = _values(settings, "head") or (Request.head,)
    types = _option_types(heads, registry)
    stages = _stages_by_recipe(settings, heads, registry)
    for name, values in settings.over.items():
        check_name(name, stages)
        if name.startswith(HEAD_OPTION):
            _check_option(name, types)
        if isinstance(values, ValueRange):
            _check_range(name, values, is_whole(name, _common(types)))
    return lay_out(settings, lambda name: is_whole(name, _common(types)))


def check_trials(
    trials: Sequence[SweepTrial],
    settings: SweepSettings,
    data: str,
    dataset: Dataset,
    registry: Registry,
    report: Report,
) -> list[CheckedTrial]:
    """Look up every trial, and leave out those that a seed could not change.

    Args:
        trials: As `trials_of` laid them out.
        settings: Of the sweep.
        data: The table of images that trials are trained on, as `--data`.
        dataset: What it holds.
        registry: Where names are looked up.
        report: Told how far it is.

    Raises the ZooError of the first trial that could not run, which the message names.
    """
    checked: list[CheckedTrial] = []
    known: dict[int, CheckedTrial] = {}
    for done, trial in enumerate(trials, start=1):
        try:
            request = request_of(trial, settings, data)
            first = known.get(trial.candidate)
            # Once for each candidate: its seeds share model, stages and whatever could be refused.
            if first is None:
                first = known[trial.candidate] = _checked(trial, request, dataset, registry)
                checked.append(first)
            elif first.draws:
                features = first.features
                # Every seed draws other weights, and so has features of its own.
                if features is not None and request.weights == "random":
                    features = _checked(trial, request, dataset, registry).features
                checked.append(replace(first, trial=trial, request=request, features=features))
        except UnknownName:
            raise  # its message names what is unknown, and what may have been meant, without the trial
        except ZooError as error:
            error.args = (f"Trial {trial.number} ({trial.described}) cannot run:\n{as_over(str(error))}",)
            raise
        report(Progress(task="check trials", done=done, total=len(trials), unit="trials"))
    return checked


def _checked(trial: SweepTrial, request: Request, dataset: Dataset, registry: Registry) -> CheckedTrial:
    resolved = resolve(request, registry, silent, dataset=dataset)
    random = resolved.model.weights.kind == "random"
    # A sweep refuses `auto`, so that its trials compute alike.
    precision: Precision = "bfloat16" if request.precision == "bfloat16" else "float32"
    stages = plan_stages(resolved, dataset, not random, None, precision)
    return CheckedTrial(
        trial=trial,
        request=request,
        features=features_key(resolved) if trains_on_features(stages) else None,
        draws=random or not draws_nothing(stages, closed_form=resolved.outline.closed_form),
        balanced=resolved.recipe.choose_by in BALANCED,
    )


def _values(settings: SweepSettings, name: str) -> tuple[str, ...]:
    values = settings.over.get(name, ())
    if isinstance(values, ValueRange):
        raise OptionError(f"--over {name}={values} is a range, and {name} takes names.\nNext: list them.")
    return values


def _option_types(heads: Sequence[str], registry: Registry) -> dict[str, dict[str, Any]]:
    """The type of each option of each head."""
    return {head: get_type_hints(registry.head(head).spec.options) for head in heads}


def _check_option(name: str, types: dict[str, dict[str, Any]]) -> None:
    option = name.removeprefix(HEAD_OPTION)
    for head, options in types.items():
        if option not in options:
            close = nearest(option, options)
            hint = f"Did you mean {either([HEAD_OPTION + each for each in close])}?" if close else ""
            known = f"Its options: {', '.join(options) or 'none'}."
            raise OptionError(
                f"--over {name}: head {head!r} has no option {option!r}, so {name} would do nothing there. "
                f"{hint or known}\nNext: zoo show {head} lists them; a sweep of its own for heads with other options."
            )


def _common(types: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of all heads; what one of them takes as a number that is not whole is not whole."""
    found: dict[str, Any] = {}
    for options in types.values():
        for name, kind in options.items():
            found[name] = float if float in (kind, found.get(name)) else kind
    return found


def _check_range(name: str, values: ValueRange, whole: bool) -> None:
    if whole and not (values.low.is_integer() and values.high.is_integer()):
        raise OptionError(
            f"--over {name}={values}: {name} takes whole numbers.\n"
            f"Next: give a range from one to another, such as --over {name}=8..64."
        )


def _stages_by_recipe(settings: SweepSettings, heads: Sequence[str], registry: Registry) -> dict[str, list[str]]:
    """The names of the stages of every recipe that a trial has."""
    found = {}
    for head in heads:
        for recipe in _values(settings, "recipe") or (None,):
            # Recipes do not depend on the backbone, which a request must have.
            request = make_request(backbone="-", head=head, recipe=recipe)
            spec, name, _ = find_recipe(request, registry, registry.head(head))
            found[recipe or name] = [stage.name for stage in spec.stages]
    return found
