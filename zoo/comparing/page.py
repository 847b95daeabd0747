"""The comparison on one page, with nothing outside it."""

from __future__ import annotations

import itertools
from pathlib import Path

from zoo.comparing import charts
from zoo.comparing.comparison import Comparison
from zoo.comparing.wording import SPLIT_WORDS, p_text, points
from zoo.errors import Refused
from zoo.files import new_path
from zoo.printable import ESCAPED
from zoo.reporting.templating import environment, styles

_NAME = "comparison"


def write_page(comparison: Comparison, path: Path | None = None) -> Path:
    """Write the page -> its path; by default a new file beside the first run.

    Raises Refused where `path` exists, RunError where it cannot be written.
    """
    text = render(comparison)
    place = path if path is not None else _new_name(_beside(comparison.runs[0].record.path))
    with new_path(place) as draft:
        draft.write_text(text, "utf-8", errors=ESCAPED)
    return place


def refuse_existing_page(path: Path) -> None:
    """Raise Refused for a page that is there already, before anything is compared."""
    if path.exists() or path.is_symlink():
        raise Refused(f"{path} exists, and zoo overwrites nothing.\nNext: name another place, or remove it.")


def render(comparison: Comparison) -> str:
    """The whole page: the same for the same runs."""
    templates = environment("zoo.comparing")
    runs = comparison.runs
    noted = any(run.record.history for run in runs)
    return templates.get_template("compare.html").render(
        css=styles(templates),
        comparison=comparison,
        runs=runs,
        styles=[charts.style_of(index) for index in range(len(runs))],
        title=_title(comparison),
        words=SPLIT_WORDS,
        points=points,
        p_text=p_text,
        accuracy=charts.curves(runs, "accuracy", "accuracy") if noted else None,
        loss=charts.curves(runs, "loss", "loss (nats)") if noted else None,
        differences=charts.differences(comparison.against),
    )


def _title(comparison: Comparison) -> str:
    first = comparison.runs[0]
    if len(comparison.runs) > 2:
        return f"{len(comparison.runs)} runs, each against {first.letter}"
    (against,) = comparison.against
    main = against.tested[0]
    where = f"on {main.outcomes.images:,} {SPLIT_WORDS[main.split]} images"
    if main.outcomes.difference == 0:
        return f"A and B are right equally often {where}"
    better, other = ("B", "A") if main.outcomes.difference > 0 else ("A", "B")
    says = "more than chance explains" if main.significant else "which may be chance"
    return f"{better} is {points(abs(main.outcomes.difference), signed=False)} points above {other} {where}, {says}"


def _beside(run: Path) -> Path:
    # What has no name of its own, `.` and `..`, has no parent that a path could say.
    return run.parent if run.name not in ("", "..") else run.resolve().parent


def _new_name(folder: Path) -> Path:
    names = (f"{_NAME}.html" if number == 1 else f"{_NAME}-{number}.html" for number in itertools.count(1))
    return next(place for name in names if not (place := folder / name).exists())
