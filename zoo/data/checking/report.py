"""What a check found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["fault", "warning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One time that it was found: a file, or files that belong together."""

    files: tuple[str, ...]
    """Below the data folder."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of trouble in a data set."""

    code: str
    """Never changes, for programs: `leak`, `cmyk`, ...; docs/data.md has them all."""
    severity: Severity
    """`fault`: it makes results wrong."""
    sentence: str
    next_step: str
    cases: tuple[Case, ...] = ()
    """Every one of them."""
    classes: tuple[str, ...] = ()
    """Those that it is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What `zoo.check_data` found in a folder."""

    path: str
    classes: tuple[str, ...]
    images: Mapping[str, tuple[int, ...]]
    """Per split, images of each class in the order of `classes`, those that can be decoded."""
    files: int
    """Images in class folders, also those that cannot be decoded."""
    split_note: str
    """How val was drawn where the folder has none; else empty."""
    findings: tuple[Finding, ...]
    """Faults first."""

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What makes results wrong."""
        return tuple(each for each in self.findings if each.severity == "fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What people should know."""
        return tuple(each for each in self.findings if each.severity == "warning")

    @property
    def passed(self) -> bool:
        """No faults."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every field, and `passed`."""
        return {**asdict(self), "passed": self.passed}
