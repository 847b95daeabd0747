"""A finished run tried again: its first steps repeated from its plan, its artefact looked at. Nothing is written."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.artefact.config import FOLDER
from zoo.artefact.read import find_artefact, read_config
from zoo.clock import Clock
from zoo.data.sources import is_there
from zoo.errors import ArtefactError, DataError, OptionError, RunError, ZooError
from zoo.events import EpochFinished, Report
from zoo.files import parse_json
from zoo.planning.plan import Plan
from zoo.planning.resolve import Resolved, complete, open_store
from zoo.registry import Registry
from zoo.training.checkpoint import Checkpoint, Moment
from zoo.training.context import RunContext
from zoo.training.course import Course
from zoo.training.proof import Check, Verdict
from zoo.training.rate import settled
from zoo.training.resume import differences, read_plan, resolve_again
from zoo.training.run_folder import PLAN, PROOF, RESULT, RunFolder
from zoo.training.start import build, obtain
from zoo.training.verify_artefact import artefact_checks
from zoo.training.watch import FIRST_STEPS

CLOSE = 1e-3
"""Relative difference of the first losses that another machine or other versions may make."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verification:
    """What `zoo verify` found."""

    run: Path
    """The run, or the artefact where that was all there is."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.verdict != "failed" for check in self.checks)


def verify(path: Path, registry: Registry, report: Report, *, offline: bool = False) -> Verification:
    """Compare an artefact with what it noted about itself; of a finished run, repeat the first steps as well.

    Needs neither training data nor network for the artefact: where a run's are gone, a warning says that its steps
    could not be repeated; `offline`: weights that are not here are not fetched for that. Raises RunError for a run that
    is not finished, ArtefactError for what is neither.
    """
    if not (path / PLAN).exists():
        folder = find_artefact(path)
        return Verification(folder, tuple(artefact_checks(folder, registry)))
    stored = read_plan(path)
    result, proof = _read(path / RESULT, path), _read(path / PROOF, path)
    saved = [*artefact_checks(path / FOLDER, registry), *_same_names(path, stored)]
    try:
        resolved = resolve_again(stored, registry, report, offline=offline)
        repeated = _repeat(path, stored, resolved, result, proof, report)
    except ZooError as error:
        # Data that are gone are no fault; data that are there and no longer fit are.
        changed = isinstance(error, (DataError, OptionError)) and is_there(Path(stored.data.path))
        verdict: Verdict = "failed" if changed else "warning"
        repeated = [Check(name="first_steps", verdict=verdict, summary=f"could not be repeated: {error}")]
    return Verification(path, (*repeated, *saved))


def _repeat(
    run: Path, stored: Plan, resolved: Resolved, result: Mapping[str, Any], proof: Mapping[str, Any], report: Report
) -> list[Check]:
    weights, fallback = obtain(resolved, report)
    with contextlib.closing(open_store(resolved)) as store:
        why = fallback or stored.weights.fallback
        plan, dataset = complete(resolved, store, report, weights=weights, fallback=why, like=stored)
        context = _Repeating(
            plan=_with_found_rate(stored, result),
            dataset=dataset,
            store=store,
            model=build(resolved, stored, weights),
            folder=RunFolder(run, writes=False),
            checkpoint=_Enough(run),
            report=report,
            clock=Clock(),
        )
        course = Course(context, None)
        with contextlib.suppress(_Stop):
            course.run()
    differing = differences(stored, plan)
    return [_same_plan(differing), _same_steps(proof, course.checks, bool(differing))]


class _Stop(Exception):
    """Enough steps were taken."""


class _Enough(Checkpoint):
    """Instead of saving, ends the first stage after its first steps."""

    _taken = 0

    def due(self, moment: Moment) -> bool:
        self._taken += moment == "step"
        if self._taken >= FIRST_STEPS or moment == "stage":
            raise _Stop
        return False


class _Repeating(RunContext):
    def record(self, epoch: EpochFinished) -> None:
        """Not into the history, which is the run's."""


def _with_found_rate(plan: Plan, result: Mapping[str, Any]) -> Plan:
    """Rates that the run found by trying need not be tried again."""
    first, *rest = plan.stages
    if first.settings.lr != "auto":
        return plan
    return plan.model_copy(update={"stages": (settled(first, result["stages"][0]["lr"]), *rest)})


def _read(path: Path, run: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{run} is not finished: it has no {path.name}.\nNext: zoo finetune --resume {run}, then verify it."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return content


def _same_plan(differing: Sequence[str]) -> Check:
    of_results = [each for each in differing if not each.startswith("versions.")]
    verdict: Verdict = "failed" if of_results else "warning" if differing else "passed"
    shown = "; ".join((of_results or differing)[:_SHOWN])
    return Check(
        name="plan",
        verdict=verdict,
        summary=shown or "data, weights, preprocessing and versions are those of the run",
        evidence={"differing": list(differing)},
    )


def _same_steps(proof: Mapping[str, Any], repeated: Sequence[Check], elsewhere: bool) -> Check:
    """`elsewhere`: whether plan and machine differ, so that bits may."""
    names = ("seeds", "closed_form")
    then = next(check["evidence"] for check in proof["checks"] if check["name"] in names)
    now = next(check.evidence for check in repeated if check.name in names)
    keys = ("first_losses", "first_digest", "digest")
    if all(then.get(key) == now.get(key) for key in keys):
        steps = len(now.get("first_losses", ()))
        what = f"the first {steps} steps give" if steps else "fitting again gives"
        return Check(name="first_steps", verdict="passed", summary=f"{what} the same losses and weights, bit for bit")
    before, after = ([float.fromhex(loss) for loss in each.get("first_losses", ())] for each in (then, now))
    close = len(before) == len(after) and all(
        math.isclose(one, other, rel_tol=CLOSE) for one, other in zip(before, after, strict=True)
    )
    told = f"losses {_numbers(before)} then, {_numbers(after)} now" if before else "the fitted head differs"
    return Check(
        name="first_steps",
        verdict="warning" if elsewhere and close else "failed",
        summary=f"not the same bits: {told}",
        evidence={"then": dict(then), "now": dict(now)},
    )


def _same_names(run: Path, plan: Plan) -> list[Check]:
    """Whether the artefact names the plan's classes; its own check looks at it by itself."""
    try:
        named = read_config(run / FOLDER).classes
    except ArtefactError:
        return []  # the artefact's check says it
    same = named == plan.classes
    summary = "the artefact names the plan's classes in the plan's order"
    return [
        Check(
            name="plan_classes",
            verdict="passed" if same else "failed",
            summary=summary if same else "the artefact names other classes than the plan, or in another order",
        )
    ]


def _numbers(losses: Sequence[float]) -> str:
    return " ".join(f"{loss:.6g}" for loss in losses)
