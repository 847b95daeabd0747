"""The report of a data check: findings, each with its cases, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["fault", "warning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One occurrence of a finding: a file, or files that belong together, such as two copies."""

    files: tuple[str, ...]
    """Paths below the data folder; empty if the case is about a class."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of problem in a data set."""

    code: str
    """The kind, for programs: `leak`, `cmyk`, ... It never changes; docs/data.md lists all of them."""
    severity: Severity
    """A `fault` makes results wrong; a `warning` is worth knowing."""
    sentence: str
    """The problem in a sentence, for people."""
    next_step: str
    cases: tuple[Case, ...] = ()
    """All occurrences."""
    classes: tuple[str, ...] = ()
    """Names of the classes that the finding is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """The result of `zoo.check_data`."""

    path: str
    classes: tuple[str, ...]
    images: Mapping[str, tuple[int, ...]]
    """Number of images that can be decoded, per split, for each class in the order of `classes`."""
    files: int
    """Number of images in class folders, including those that cannot be decoded."""
    split_note: str
    """How val was drawn; empty if the data have a val."""
    notes: tuple[str, ...] = ()
    """Sentences on how the data were read: folders that were looked through, words for splits, encodings."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Number of files that are no part of the data, by reason: `hidden` and `system file`."""
    findings: tuple[Finding, ...]
    """All findings, faults first."""

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that make results wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that people should know of, but that do not make results wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def passed(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Every field, and `passed`, as a dictionary for JSON."""
        return {**asdict(self), "passed": self.passed}
