"""The results of conformance checks: a `ConformanceCheck` for each, and a `Report` of all. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.errors import ZooError

Verdict = Literal["passed", "failed", "skipped"]
Kind = Literal["head", "backbone", "recipe", "plugin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConformanceCheck:
    """The result of one check."""

    name: str
    """Name of the check, such as `gradients`."""
    verdict: Verdict
    summary: str
    """What the check observed, or why it was skipped, in one sentence."""

    def to_dict(self) -> dict[str, str]:
        """Return the check as plain JSON types."""
        return {"name": self.name, "verdict": self.verdict, "summary": self.summary}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks of one head, backbone or recipe."""

    kind: Kind
    name: str
    """Name of what was checked; qualified (`plugin/name`) if an installed plugin provides it."""
    checks: tuple[ConformanceCheck, ...]
    """The checks in the order in which they ran."""

    @property
    def passed(self) -> bool:
        """Whether no check failed. Skipped checks do not count as failures."""
        return not self.failed

    @property
    def failed(self) -> tuple[ConformanceCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict == "failed")

    def verdicts(self) -> Mapping[str, Verdict]:
        """Return the verdict of every check, by the check's name."""
        return {check.name: check.verdict for check in self.checks}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "kind": self.kind,
            "name": self.name,
            "verdict": "passed" if self.passed else "failed",
            "checks": [check.to_dict() for check in self.checks],
        }


class ConformanceError(ZooError, AssertionError):
    """At least one conformance check failed. The message lists the failed checks; `report` has all of them.

    It is an AssertionError as well, so that a test that calls `check_head` fails by an assertion.
    """

    exit_code = 3
    code = "conformance"
    next_step = "mend what these say, and check again: zoo plugins check NAME, or the same call."

    def __init__(self, report: Report) -> None:
        self.report = report
        count = f"{len(report.failed)} of {len(report.checks)} checks"
        lines = [f"  {check.name}: {check.summary}" for check in report.failed]
        super().__init__("\n".join([f"The {report.kind} {report.name} failed {count}:", *lines]))
