"""The end of a sweep: the best candidate as a real run, judged once on images that chose nothing, and all of it
written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from zoo.artefact.classifier import Classifier
from zoo.artefact.evaluate import evaluate
from zoo.errors import CheckFailed, RunError
from zoo.events import Report
from zoo.registry.registry import Registry
from zoo.reporting.page import write_or_note
from zoo.storage.atomic import json_text, parse_json, write_text
from zoo.sweeping.checked_trials import CheckedTrial
from zoo.sweeping.division import JUDGED, location
from zoo.sweeping.settings import SweepSettings
from zoo.sweeping.sweep_folder import PAGE, RECORD, ROWS, TABLE, WINNER, SweepFolder, TrialRow
from zoo.sweeping.sweep_page import render_sweep
from zoo.sweeping.sweep_record import CandidateScores, Sweep
from zoo.training.result import Result
from zoo.training.resume import finish, resume
from zoo.training.run import finetune
from zoo.training.run_folder import PLAN, RESULT, has_result
from zoo.training.shown_result import REPORT


def conclude(
    folder: SweepFolder,
    settings: SweepSettings,
    division: Mapping[str, Any],
    candidates: Sequence[CandidateScores],
    trials: Mapping[int, CheckedTrial],
    registry: Registry,
    report: Report,
    *,
    seconds: float,
) -> Sweep:
    """Train the winner where it is no run yet, judge it, and write the table, the page and the record.

    Args:
        folder: Of the sweep.
        settings: Of the sweep.
        division: How its images are divided, as stored.
        candidates: The best first.
        trials: By number.
        registry: Where names are looked up.
        report: Called with every event.
        seconds: What the sweep took so far, in this process.

    Raises:
        CheckFailed: The winner's run does not have the scores of its trial.
        ZooError: As `zoo.finetune` and `zoo.evaluate`.
    """
    best = candidates[0]
    # The first seed, not the luckiest: which seed is best here says nothing of the next images.
    row = best.rows[0]
    run = folder.path / WINNER if row.run is None else folder.path / row.run
    result = _trained(run, row, trials[row.trial], registry, report)
    judged = _judged(run, folder, settings, registry, report, balanced=best.balanced)
    found = Sweep(
        folder=folder.path,
        settings=settings.to_dict(),
        division=division,
        candidates=tuple(candidates),
        winner_run=run,
        winner_val=result["metrics"]["val"],
        judged=judged,
        seconds=seconds,
    )
    # Whatever was written before a stop is written again by the sweep that goes on, for it is no finished one yet.
    write_text(folder.path / TABLE, found.to_csv())
    write_text(folder.path / PAGE, render_sweep(found))
    write_text(folder.path / RECORD, json_text(found.to_dict()))  # last: it makes the sweep a finished one
    return found


def refuse_without_winner(folder: SweepFolder, candidates: Sequence[CandidateScores]) -> None:
    """Raise RunError where no candidate succeeded with all its seeds; `candidates`: the best first."""
    best = candidates[0]
    if best.failed:
        fault = next(row.fault for row in best.rows if row.status == "failed")
        raise RunError(
            f"No candidate succeeded with all its seeds, so there is no winner. {best.described} failed: {fault}\n"
            f"Next: the rows in {folder.path / ROWS} say what each failed of; start a new sweep without that."
        )


def _trained(run: Path, row: TrialRow, trial: CheckedTrial, registry: Registry, report: Report) -> Mapping[str, Any]:
    """Train the winner as a run, with the settings of its trial, unless it is one -> the content of its result."""

    def with_report(path: Path) -> None:
        write_or_note(path, registry, report)

    if not has_result(run):
        if (run / PLAN).exists():
            result = resume(run, registry, report, finished=with_report)
        else:
            result = finetune(replace(trial.request, out=run), registry, report, finished=with_report)
    else:
        # A trial that was a run has no report yet.
        result = (
            Result(path=run, content=_content(run)) if (run / REPORT).exists() else finish(run, report, with_report)
        )
    # What the row has: one of an older zoo has fewer scores than a run of this one.
    val = {name: value for name, value in result.content["metrics"]["val"].items() if name in row.val}
    # To the last bit: this is what makes a row of scores, which no run wrote, worth as much as a run.
    if val != dict(row.val):
        raise CheckFailed(
            f"The winner was trained again as a run, and its validation scores differ from those of its trial: "
            f"{_in_words(val)} in {run}, {_in_words(row.val)} in the trial.\n"
            "Next: go on with the same machine, packages and number of threads, or begin a new sweep."
        )
    return result.content


def _judged(
    run: Path, folder: SweepFolder, settings: SweepSettings, registry: Registry, report: Report, *, balanced: bool
) -> dict[str, Any]:
    """Judge the winner on the images that nobody selected on; `balanced`: also as candidates were compared."""
    classifier = Classifier.load(run, device=settings.device, report=report, registry=registry)
    found = evaluate(classifier, Path(location(folder.path, JUDGED)), report, registry=registry)
    recalls = [each.recall.value for each in found.assessment.classes if each.recall is not None]
    return {
        "images": found.images,
        "accuracy": asdict(found.assessment.accuracy),
        **({"balanced_accuracy": fmean(recalls)} if balanced else {}),
        "macro_f1": found.scores.macro_f1,
        "loss": found.scores.loss,
        "unreadable": len(found.unreadable),
        **({"copies": found.assessment.copies.to_dict()} if found.assessment.copies else {}),
    }


def _content(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = parse_json((run / RESULT).read_text("utf-8"))
    return content


def _in_words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in scores.items())
