"""What the checks found. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.errors import ZooError

Verdict = Literal["passed", "failed", "skipped"]
Kind = Literal["head", "backbone", "recipe", "plugin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    summary: str
    """One sentence: what was found; why it was skipped."""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON types."""
        return {"name": self.name, "verdict": self.verdict, "summary": self.summary}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that was checked of one head, backbone or recipe."""

    kind: Kind
    name: str
    """Qualified where it is that of an installed plugin."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; skipped ones do not count."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict == "failed")

    def verdicts(self) -> Mapping[str, Verdict]:
        """check -> verdict."""
        return {check.name: check.verdict for check in self.checks}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "kind": self.kind,
            "name": self.name,
            "verdict": "passed" if self.passed else "failed",
            "checks": [check.to_dict() for check in self.checks],
        }


class ConformanceError(ZooError, AssertionError):
    """A plugin is not what zoo relies on; `report` has every check, the message those that failed."""

    exit_code = 3

    def __init__(self, report: Report) -> None:
        self.report = report
        count = f"{len(report.failed)} of {len(report.checks)} checks"
        lines = [f"  {check.name}: {check.summary}" for check in report.failed]
        super().__init__("\n".join([f"The {report.kind} {report.name} failed {count}:", *lines]))
