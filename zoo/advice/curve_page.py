"""Write the HTML page of a learning curve: one file that loads nothing from outside."""

from __future__ import annotations

from pathlib import Path

from zoo.advice.curve import CurveReport
from zoo.errors import Refused
from zoo.reporting.curve import IN_WORDS, shown_curve
from zoo.reporting.page import environment, styles
from zoo.storage.atomic import new_path
from zoo.text import escaping_errors


def write_curve_page(report: CurveReport, path: Path) -> None:
    """Write the page. Raises Refused if `path` exists, RunError if it cannot be written."""
    templates = environment("zoo.advice")
    text = templates.get_template("curve.html").render(
        css=styles(templates),
        report=report,
        curve=shown_curve(report.record.to_dict()),
        title=_title(report),
        data=report.data,
    )
    with new_path(path) as draft:
        draft.write_text(text, "utf-8", errors=escaping_errors())


def refuse_existing_page(path: Path) -> None:
    """Raise Refused if `path` exists. Called before anything is computed, so that no work is lost."""
    if path.exists() or path.is_symlink():
        raise Refused(f"{path} exists, and zoo overwrites nothing.\nNext: choose another path, or remove the file.")


def _title(report: CurveReport) -> str:
    twice = report.record.forecasts[0]
    if twice.gain is None:
        return f"What {IN_WORDS[2].lower()} as many images would bring cannot be said"
    return f"{IN_WORDS[2]} as many images would bring {100 * twice.gain.value:.1f} points"
