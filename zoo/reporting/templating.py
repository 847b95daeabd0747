"""Templates of the pages, and how numbers are written in them."""

from __future__ import annotations

import functools
import json
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_EVIDENCE_MOST = 6000


@functools.cache
def environment(*packages: str) -> Environment:
    """The templates of some packages and, after them, of the report, whose styles all pages share."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "zoo.reporting")]),
        # Names of classes and files are whatever people call them.
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"percent": percent, "seconds": seconds, "evidence": _evidence}
    return made


def styles(made: Environment) -> Markup:
    """What stands in a page's `<style>`."""
    return Markup(made.get_template("report.css").render())


def percent(value: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as `84.3 %`; `-` for none."""
    return "-" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def seconds(value: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _evidence(content: Any) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text if len(text) <= _EVIDENCE_MOST else text[:_EVIDENCE_MOST] + "\n… the rest is in proof.json"
