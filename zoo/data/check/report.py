"""The report of a data check: findings, each with its cases, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zoo.display.blocks import Block, Line, TextTable, blocks_html
from zoo.text import counted

Severity = Literal["fault", "warning"]
_SHOWN = 10
"""Files of a finding, or classes, that are listed unless all are asked for."""


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

    def blocks(self, *, whole: bool = False, with_images: bool = True) -> Iterator[Block]:
        """The report for people.

        Args:
            whole: Whether every file of a finding is listed.
            with_images: Whether the numbers of images and how the data were read come before the findings.
        """
        yield Line(self._summary(), "bold")
        if with_images:
            yield Line()
            yield from self._images()
        for finding in self.findings:
            yield from _lines(finding, whole=whole)

    def _repr_html_(self) -> str:
        return blocks_html(self.blocks())

    def _summary(self) -> str:
        images = counted(self.files, "image")
        classes = counted(len(self.classes), "class", "classes")
        splits = counted(len(self.images), "split")
        severities = (("fault", self.faults), ("warning", self.warnings))
        findings = [counted(len(findings), name) for name, findings in severities if findings]
        return f"{images}, {classes}, {splits}: {', '.join(findings) or 'nothing found'}"

    def _images(self) -> Iterator[Block]:
        splits = list(self.images)
        rows = [
            [name, *(f"{self.images[split][label]:,}" for split in splits)] for label, name in enumerate(self.classes)
        ]
        if len(rows) > 2 * _SHOWN:
            rows = [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", *("" for _ in splits)]]
        yield TextTable(columns=["class", *splits], rows=rows, right=splits)
        for note in (*self.notes, self.split_note):
            if note:
                yield Line(note)
        if self.passed_over:
            names = {"hidden": "hidden file", "system file": "system file"}
            counts = [counted(count, names[reason]) for reason, count in sorted(self.passed_over.items())]
            yield Line(f"passed over: {', '.join(counts)}")


def _lines(finding: Finding, *, whole: bool) -> Iterator[Line]:
    style = "bold red" if finding.severity == "fault" else "yellow"
    yield Line(f"\n{finding.severity.upper()} {finding.code}: {finding.sentence}", style)
    shown = finding.cases if whole else finding.cases[:_SHOWN]
    for case in shown:
        yield Line(f"  {_case(case)}")
    if len(shown) < len(finding.cases):
        yield Line(f"  and {len(finding.cases) - len(shown):,} more; zoo -v and --json list them all")
    if finding.classes and not finding.cases:
        more = f" and {len(finding.classes) - _SHOWN} more" if len(finding.classes) > _SHOWN else ""
        yield Line(f"  {', '.join(finding.classes[:_SHOWN])}{more}")
    yield Line(f"  Next: {finding.next_step}")


def _case(case: Case) -> str:
    files = " and ".join(case.files)
    return f"{files}: {case.detail}" if files and case.detail else files or case.detail
