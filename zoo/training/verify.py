"""Verify a finished run: repeat its first steps from its plan, and check its artefact, or an artefact alone.

The steps are those of the run's own training loop, stopped after a few: a second loop could differ. Nothing is written.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from zoo.artefact.config import CONFIG, FOLDER, TENSORS
from zoo.artefact.read import find_artefact, read_config
from zoo.artefact.verify import artefact_checks
from zoo.data.sources import data_exists
from zoo.errors import COPY_FOLDER, ArtefactError, DataError, OptionError, RunError, ZooError, without_step
from zoo.events import Report
from zoo.planning.object_version import OBJECT
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry
from zoo.registry.session import missing_objects, of_session
from zoo.specs.plan import Plan
from zoo.specs.run_result import Check, Verdict
from zoo.storage.atomic import parse_json
from zoo.storage.tensors import file_digest
from zoo.text import shell_word
from zoo.training.divisible import in_parts as trains_in_parts
from zoo.training.learning_rate import with_rate
from zoo.training.prepare import prepare
from zoo.training.run_files import (
    changed_predictions,
    checks_in,
    digests_of_predictions,
    read_json,
    read_predictions,
)
from zoo.training.run_folder import EVALUATION, PLAN, PREDICTIONS, PROOF, RESULT, has_result
from zoo.training.run_numbers import contradictions, differing_scores
from zoo.training.stage_watch import FIRST_STEPS
from zoo.training.stages import StageRunner
from zoo.training.stored_plan import differences, read_plan

CLOSE = 1e-3
"""How much another machine or other versions may change the first losses, relatively."""
_SHOWN = 5
"""Differences that a summary lists."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `zoo verify`."""

    run: Path
    """The run folder, or the artefact's where there was no run."""
    checks: tuple[Check, ...]
    """Every check with its verdict."""

    def __repr__(self) -> str:
        verdicts = [check.verdict for check in self.checks]
        counted = ", ".join(f"{verdicts.count(each)} {each}" for each in get_args(Verdict) if each in verdicts)
        return f"Verification({str(self.run)!r}: {counted})"

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.verdict != "failed" for check in self.checks)


def verify(path: Path, registry: Registry, report: Report, *, offline: bool = False) -> Verification:
    """Compare an artefact with what it recorded about itself, and repeat the first steps of a finished run.

    The artefact's checks need neither training data nor network. Where the data or weights of a run are gone, its steps
    cannot be repeated, which is a warning.

    Args:
        path: A run folder or an artefact folder.
        registry: Where names are looked up.
        report: Called with every event.
        offline: Do not download weights that are not on this machine.

    Raises:
        RunError: The run is not finished.
        ArtefactError: `path` is neither a run nor an artefact.
    """
    if not (path / PLAN).exists():
        folder = find_artefact(path)
        _refuse_missing(folder, registry)
        return Verification(folder, tuple(artefact_checks(folder, registry)))
    stored = read_plan(path)
    result, checks = _read(path / RESULT, path), checks_in(_read(path / PROOF, path), path / PROOF)
    _refuse_missing(path / FOLDER, registry)
    saved = [*artefact_checks(path / FOLDER, registry), *_check_class_names(path, stored), *_check_own(path, checks)]
    saved += [*_check_predictions(path), _check_numbers(path, stored, result)]
    try:
        repeated = _repeat(stored, result, checks, registry, report, offline=offline)
    except ZooError as error:
        # Missing data are not a fault of the run. Data that are there and no longer fit its plan are.
        changed = isinstance(error, (DataError, OptionError)) and _data_are_there(stored, registry)
        verdict: Verdict = "failed" if changed else "warning"
        repeated = [Check(name="first_steps", verdict=verdict, summary=f"could not be repeated: {error}")]
    return Verification(path, (*repeated, *saved))


def _refuse_missing(folder: Path, registry: Registry) -> None:
    """Raise ArtefactError where the classifier was made with objects that nobody gave: nothing is known of it then."""
    try:
        config = read_config(folder)
    except ArtefactError:
        return  # one of the artefact's own checks reports it
    missing = missing_objects(
        registry,
        backbone=config.backbone.name,
        head=config.head.name,
        whose="This classifier",
        call="zoo.verify(PATH",
    )
    if missing:
        raise ArtefactError(missing)


def _data_are_there(plan: Plan, registry: Registry) -> bool:
    if of_session(plan.data.reader):
        return any(qualified_name(source) == plan.data.reader for source in registry.data_sources())
    return data_exists(Path(plan.data.path))


def _repeat(
    stored: Plan,
    result: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    registry: Registry,
    report: Report,
    *,
    offline: bool,
) -> list[Check]:
    with prepare(stored, registry, report, trains=False, offline=offline) as prepared:
        stages = StageRunner(prepared.context(_with_chosen_rate(stored, result)), folder=None)
        stages.run(stop_after=FIRST_STEPS)
    differing = differences(stored, prepared.plan)
    # A head that was fitted, or trained by the first process alone, comes out the same to the bit, parts or not.
    parts = stored.shard_backbone and trains_in_parts(stored.stages[0])
    first_steps = _check_first_steps(checks, stages.checks, elsewhere=bool(differing), in_parts=parts)
    return [_check_plan(differing), first_steps]


def _with_chosen_rate(plan: Plan, result: Mapping[str, Any]) -> Plan:
    """Return the plan with the rate that the run's search chose for the first stage, so that nothing is searched."""
    first, *rest = plan.stages
    if first.settings.lr != "auto" or not first.steps:
        return plan
    try:
        rate = float(result["stages"][0]["lr"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise RunError(f"{RESULT} does not say which learning rate the first stage had.\n{COPY_FOLDER}") from None
    return plan.model_copy(update={"stages": (with_rate(first, rate), *rest)})


def _read(path: Path, run: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        if has_result(run):
            raise RunError(
                f"{run} is finished, but its {path.name} is gone, which its first steps are compared with.\n"
                f"Next: zoo verify {shell_word(run / FOLDER)} checks the saved classifier without them."
            ) from None
        raise RunError(
            f"{run} is not finished: it has no {path.name}.\n"
            f"Next: zoo finetune --resume {shell_word(run)}, then verify it."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read: it does not hold a JSON object.\n{COPY_FOLDER}")
    return content


def _check_plan(differing: Sequence[str]) -> Check:
    # Other versions alone are a warning: the same run on another machine is what verifying is for.
    # So is what an object computes, by which its version goes: its last bits differ there.
    elsewhere = ("versions.", f'head.version: "{OBJECT}', f'backbone.version: "{OBJECT}')
    of_results = [line for line in differing if not line.startswith(elsewhere)]
    verdict: Verdict = "failed" if of_results else "warning" if differing else "passed"
    shown = "; ".join((of_results or differing)[:_SHOWN])
    return Check(
        name="plan",
        verdict=verdict,
        summary=shown or "data, weights, preprocessing and versions are the same as in the run",
        evidence={"differing": list(differing)},
    )


def _check_first_steps(
    checks: Sequence[Mapping[str, Any]], repeated: Sequence[Check], *, elsewhere: bool, in_parts: bool
) -> Check:
    """Compare the first steps' losses and weights.

    `elsewhere`: this machine differs from the run's, so bits may. `in_parts`: the run held its backbone in parts, whose
    norms and steps are rounded in another order than those of whole tensors.
    """
    # The checks whose evidence has them: of a stage that is trained, of a head that is fitted.
    names = ("seeds", "closed_form", "solver")
    then = next((check["evidence"] for check in checks if check["name"] in names), None)
    if then is None:
        return _failed_steps(f"{PROOF} has nothing of the first steps to compare with")
    now = next(check.evidence for check in repeated if check.name in names)
    keys = ("first_losses", "first_digest", "digest")
    if all(then.get(key) == now.get(key) for key in keys):
        steps = len(now.get("first_losses", ()))
        what = f"the first {steps} steps give" if steps else "fitting again gives"
        return Check(name="first_steps", verdict="passed", summary=f"{what} the same losses and weights, bit for bit")
    try:
        before, after = ([float.fromhex(loss) for loss in run.get("first_losses", ())] for run in (then, now))
    except (TypeError, ValueError, OverflowError):
        return _failed_steps(f"{PROOF} holds no losses of the first steps that can be read")
    close = len(before) == len(after) and all(
        math.isclose(one, other, rel_tol=CLOSE) for one, other in zip(before, after, strict=True)
    )
    if in_parts and close:
        return Check(
            name="first_steps",
            verdict="passed",
            summary=f"the first {len(before)} steps give the same losses but for rounding: the backbone was in parts",
            evidence={"then": dict(then), "now": dict(now)},
        )
    difference = f"losses {_numbers(before)} then, {_numbers(after)} now" if before else "the fitted head differs"
    return Check(
        name="first_steps",
        verdict="warning" if elsewhere and close else "failed",
        summary=f"not bit for bit the same: {difference}",
        evidence={"then": dict(then), "now": dict(now)},
    )


def _failed_steps(summary: str) -> Check:
    return Check(name="first_steps", verdict="failed", summary=summary)


def _check_class_names(run: Path, plan: Plan) -> list[Check]:
    """Check that the artefact has the plan's classes. The artefact's own checks do not know the plan."""
    try:
        classes = read_config(run / FOLDER).classes
    except ArtefactError:
        return []  # one of the artefact's own checks reports it
    same = classes == plan.classes
    summary = "the artefact has the plan's classes in the plan's order"
    return [
        Check(
            name="plan_classes",
            verdict="passed" if same else "failed",
            summary=summary if same else "the artefact has other classes than the plan, or in another order",
        )
    ]


def _check_own(run: Path, checks: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Check that the saved classifier is that of this run: one of another run is whole in itself.

    By the file, not by what config.json says of it: a damaged file would be called the run's own.
    """
    # Proofs of older versions have no digest.
    then = next((check["evidence"].get("digest") for check in checks if check["name"] == "saved_file"), None)
    if not then:
        return []
    try:
        read_config(run / FOLDER)
        now = file_digest(run / FOLDER / TENSORS)
    except (ArtefactError, OSError):
        return []  # one of the artefact's own checks reports it
    return [
        Check(
            name="own_file",
            verdict="passed" if now == then else "failed",
            summary=f"{TENSORS} is the file that the run proved"
            if now == then
            else f"{FOLDER}/{TENSORS} is another file than the one that the run proved: SHA-256 {now[:16]}..., "
            f"then {then[:16]}...",
        )
    ]


def _check_predictions(run: Path) -> list[Check]:
    """Check that the predictions are those that the run wrote: comparisons and reports are made of them."""
    try:
        digests = digests_of_predictions(run)
    except RunError as error:
        return [Check(name="own_predictions", verdict="failed", summary=str(error))]
    if digests is None:
        return []
    same = digests[0] == digests[1]
    return [
        Check(
            name="own_predictions",
            verdict="passed" if same else "failed",
            summary=f"{PREDICTIONS} is the file that the run wrote" if same else changed_predictions(run, *digests),
        )
    ]


def _check_numbers(run: Path, plan: Plan, result: Mapping[str, Any]) -> Check:
    """Check that the scores of the run are those that its predictions give, and those that its classifier states."""
    try:
        evaluation = read_json(run / EVALUATION) if (run / EVALUATION).exists() else {}
        predictions = read_predictions(run) if (run / PREDICTIONS).exists() else ()
        found = contradictions(result, evaluation, predictions, plan.classes)
        with contextlib.suppress(ArtefactError):  # one of the artefact's own checks reports it
            metrics = read_config(run / FOLDER).metrics
            found += [f"{RESULT} and {FOLDER}/{CONFIG} differ in {each}" for each in differing_scores(result, metrics)]
    except RunError as error:
        return Check(name="own_numbers", verdict="failed", summary=without_step(str(error)))
    # Of a run of an older zoo, or of one that somebody passed on without it.
    unknown = "" if predictions else f"there is no {PREDICTIONS} with which the scores in {RESULT} could be compared"
    same = f"the scores in {RESULT} are those of the run's own predictions"
    return Check(
        name="own_numbers",
        verdict="failed" if found else "warning" if unknown else "passed",
        summary="; ".join(found[:_SHOWN]) or unknown or same,
        evidence={"contradictions": found},
    )


def _numbers(losses: Sequence[float]) -> str:
    return " ".join(f"{loss:.6g}" for loss in losses)
