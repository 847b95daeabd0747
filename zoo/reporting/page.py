"""Write `report.html`: one HTML page with everything about a finished run, built from the run folder alone.

The templates, their filters and the style sheet are shared with the page of `zoo compare`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zoo.errors import RunError
from zoo.evaluation.copies import CountedCopies
from zoo.events import Note, Report
from zoo.registry.registry import Registry
from zoo.registry.session import arguments_of_run
from zoo.reporting import charts
from zoo.reporting.command import RECIPE_FILE, as_lines, as_python, command_of
from zoo.reporting.confusions import frequent_confusions, shown_matrix
from zoo.reporting.curve import ShownCurve, shown_curve
from zoo.reporting.examples import Examples, gather
from zoo.reporting.record import DAMAGED, RunRecord, as_runs_write_it, read_run
from zoo.specs.plan import Plan
from zoo.specs.run_result import JUDGED_IN_WORDS, kept_in_words, named_in_words, optimism_in_words
from zoo.storage.atomic import try_file, write_text
from zoo.text import counted, points, shell_word
from zoo.training.run_folder import CURVE, has_result
from zoo.training.shown_result import REPORT

_EVIDENCE_MOST = 6000
"""Most characters of a check's evidence; the rest is in proof.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenReport:
    """Where a report is, and what became of the images in it since the run."""

    path: Path
    shown: int
    """Images in it."""
    changed: int
    """How many of these have changed since the run. They are marked."""
    missing: int
    """Images that can no longer be read. They are left out."""
    no_pictures: str
    """Why there are none at all."""

    def remarks(self) -> Iterator[str]:
        """What else whoever reads the report should know, in sentences."""
        if self.changed:
            have = "has" if self.changed == 1 else "have"
            yield (
                f"{self.changed} of the {counted(self.shown, 'image')} in the report {have} changed since the run: its "
                "classifier now gives another probability. The report marks which."
            )
        if self.no_pictures:
            yield f"The report has no pictures: {self.no_pictures}."
        elif self.missing:
            yield f"{counted(self.missing, 'image')} can no longer be read, and the report does without."


def write_report(run: Path, registry: Registry) -> WrittenReport:
    """Build a finished run's `report.html` and write it into the run folder; no other file changes.

    Images are read again from where the plan found them. Missing ones are left out, and the report says so.
    Raises RunError for a folder that is not a finished run, or that cannot be read or written.
    """
    record = read_run(run)
    try_file(run / REPORT)
    with as_runs_write_it(run):
        examples = gather(record, registry)
        page = render(record, examples, registry)
    write_text(run / REPORT, page)
    return WrittenReport(
        path=run / REPORT,
        shown=len(examples.files),
        changed=sum(examples.files.values()),
        missing=len(examples.missing),
        no_pictures=examples.no_pictures,
    )


def lacks_report(run: Path) -> bool:
    """Whether a run has a result but no report: it was stopped between the two, or `--no-report` was given."""
    return has_result(run) and not (run / REPORT).exists()


def write_or_note(run: Path, registry: Registry, on_event: Report) -> None:
    """Write the report at the end of a run. A failure is only noted, with a `Note` event: the run itself is complete.

    `on_event` is the run's callable for events; it has nothing to do with `report.html`.
    """
    try:
        written = write_report(run, registry)
        for text in written.remarks():
            on_event(Note(text=text, loud=True))
    except Exception as error:
        # Whatever went wrong, the classifier is saved and the result is written; the report can be built again.
        why = str(error) or type(error).__name__
        on_event(Note(text=f"The report was not written: {why}\nNext: zoo report {shell_word(run)}", loud=True))


def render(record: RunRecord, examples: Examples, registry: Registry) -> str:
    """The report as HTML that loads nothing from outside. The same arguments give the same text."""
    templates = environment()
    plan, result = record.plan, record.result
    kept = result["selection"]["kept"]
    judged = JUDGED_IN_WORDS[record.judged]
    assessed, confusion = record.assessment, record.confusion
    names = [scores["name"] for scores in assessed["classes"]] if assessed else []
    return templates.get_template("report.html").render(
        css=styles(templates),
        plan=plan,
        result=result,
        record=record,
        checks=record.checks,
        assessed=assessed,
        copies=_copies(assessed) if assessed else "",
        examples=examples,
        stages=result["stages"],
        kept=kept,
        kept_in_words=kept_in_words(result["selection"]),
        optimism=optimism_in_words(result["selection"]),
        blend_in_words=named_in_words,
        name=record.path.absolute().name,
        backbone=plan.backbone.name.rpartition("/")[2].partition(".")[0],
        head=plan.head.name.rpartition("/")[2],
        recipe=plan.recipe.rpartition("/")[2],
        matrix=shown_matrix(confusion, names) if confusion is not None else None,
        confusions=frequent_confusions(confusion, names) if confusion is not None else [],
        judged_in_words=JUDGED_IN_WORDS,
        loss=charts.loss_curves(record.history, kept, judged=judged) if record.history else None,
        accuracy=charts.accuracy_curve(record.history, kept, judged=judged) if record.history else None,
        curve=_curve(record),
        bars=charts.class_bars(assessed["classes"]) if assessed else None,
        bars_shown=charts.CLASSES_SHOWN,
        reliability=charts.reliability_chart(assessed["reliability"]) if assessed else None,
        time=charts.time_bar(result["seconds"]),
        time_shares=charts.shares_of_time(result["seconds"]),
        command=_command(plan, registry),
        objects=arguments_of_run(plan),
        recipe_text=plan.recipe_spec().to_toml(),
        recipe_file=RECIPE_FILE,
    )


def _copies(assessed: dict[str, Any]) -> str:
    """What copies there are among the images that were judged, in words; empty where none are known."""
    return CountedCopies(**assessed["copies"]).in_words(assessed["images"]) if "copies" in assessed else ""


def _command(plan: Plan, registry: Registry) -> str:
    words = command_of(plan, registry)
    return as_python(words, plan) if arguments_of_run(plan) else as_lines(words)


@functools.cache
def environment(*packages: str) -> Environment:
    """A Jinja environment that looks for templates in the given packages first, then in the report's."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "zoo.reporting")]),
        # Class and file names are arbitrary text, markup included.
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A misspelt name in a template is an error, not an empty place in the page.
        undefined=StrictUndefined,
    )
    templates.filters |= {"percent": percent, "seconds": seconds, "evidence": _evidence, "points": points}
    return templates


def styles(templates: Environment) -> Markup:
    """The content of a page's `<style>` element."""
    return Markup(templates.get_template("report.css").render())


def percent(value: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as `84.3 %`; None as `-`."""
    return "-" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def seconds(value: float) -> str:
    """A duration: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 60:
        return f"{value:.1f} s"
    # Rounded first: 119.7 seconds are 2 minutes, not 1 minute and 60 seconds.
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _curve(record: RunRecord) -> ShownCurve | None:
    """The learning curve; None where the run has none. Raises RunError for a record that is damaged."""
    if record.curve is None:
        return None
    try:
        return shown_curve(record.curve)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{record.path / CURVE} cannot be read: {type(error).__name__} {error}.{DAMAGED}") from None


def _evidence(content: Any) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text if len(text) <= _EVIDENCE_MOST else text[:_EVIDENCE_MOST] + "\n… the rest is in proof.json"
