"""What a check of labels found, as a record, and the judged images behind it.

`zoo.advice.labels` makes the check, `labels_page` beside it draws it, and `suspects` writes and reads its table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.advice.suspects import Suspect
from zoo.data.dataset import ImageFile
from zoo.display.blocks import Block, Line, TextTable, blocks_html
from zoo.text import counted, some

_SHOWN = 10
"""Suspects, and groups of near-duplicates under several labels, that are listed unless all are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCheck:
    """What a check of labels found."""

    data: str
    """The data as they were named."""
    data_digest: str
    """SHA-256 over every file's content, label and split."""
    backbone: str
    """Qualified name, with the tag."""
    weights: str
    images: int
    """How many images were judged, in all splits."""
    classes: tuple[str, ...]
    """The classes that were judged."""
    left_out: tuple[tuple[str, int], ...]
    """(class, number of its images) of classes with fewer than five different images, which were not judged."""
    estimated_wrong: float
    """How many of the labels are wrong, as the calibrated confident joint estimates it."""
    suspects: tuple[Suspect, ...]
    """Images of which another class is more probable than the given one, the likeliest to be wrong first."""
    conflicts: tuple[tuple[tuple[str, str], ...], ...]
    """Copies and near-duplicates under several labels: (file, class) of each image, group by group."""
    unreadable: tuple[str, ...]
    seconds: dict[str, float]
    csv: Path | None = None
    """suspects.csv, where a folder was asked for."""
    page: Path | None = None
    notes: tuple[str, ...] = ()
    """What limits the check: what the backbone may know of these images."""

    def to_dict(self) -> dict[str, Any]:
        """The check as plain JSON types."""
        return {
            "format": 1,
            "data": {"source": self.data, "digest": self.data_digest},
            "backbone": self.backbone,
            "weights": self.weights,
            "images": self.images,
            "classes": list(self.classes),
            "left_out": [{"class": name, "images": count} for name, count in self.left_out],
            "estimated_wrong": self.estimated_wrong,
            "suspects": [suspect.to_dict() for suspect in self.suspects],
            "conflicts": [[{"file": file, "class": name} for file, name in group] for group in self.conflicts],
            "unreadable": list(self.unreadable),
            "seconds": self.seconds,
            "csv": None if self.csv is None else str(self.csv),
            "page": None if self.page is None else str(self.page),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def left_out_in_words(self, *, whole: bool = False) -> str:
        """The classes that were not judged, in one sentence however many there are; `whole` names all of them."""
        if len(self.left_out) == 1:
            ((name, count),) = self.left_out
            return f"{name} was left out: fewer than five different images ({count:,} in all)"
        named = [f"{name} ({count:,})" for name, count in self.left_out]
        listed = some(named, len(named) if whole else _SHOWN)
        return f"{len(named):,} classes were left out: fewer than five different images of each: {listed}"

    def blocks(self, *, whole: bool = False, with_suspects: bool = True) -> Iterator[Block]:
        """The check for people.

        Args:
            whole: Whether every suspect and every group of near-duplicates is listed.
            with_suspects: Whether there is a table of suspects at all.
        """
        judged = f"{counted(self.images, 'image')} of {counted(len(self.classes), 'class', 'classes')}"
        yield Line(
            f"{judged}, judged by {self.backbone}: {counted(len(self.suspects), 'suspect label')}; "
            f"confident learning estimates {self.estimated_wrong:.0f} wrong",
            "bold",
        )
        # Before the suspects: whoever reads no further should know which labels nobody looked at.
        if self.left_out:
            yield Line(self.left_out_in_words(whole=whole), "yellow")
        yield from (Line(note, "yellow") for note in self.notes)
        if self.unreadable:
            yield Line(f"not readable, so not judged: {some(list(self.unreadable))}", "yellow")
        most = None if whole else _SHOWN
        if self.suspects and with_suspects:
            yield from self._suspects(most)
        for group in self.conflicts[:most]:
            files = some([f"{file} ({name})" for file, name in group], len(group) if whole else 4)
            yield Line(f"near-duplicates under several labels: {files}", "yellow")
        if most is not None and len(self.conflicts) > most:
            yield Line(f"and {len(self.conflicts) - most:,} more such groups; zoo -v lists them all")

    def _suspects(self, most: int | None) -> Iterator[Block]:
        columns = ["file", "given", "suggested", "p given", "p suggested", "counted as wrong"]
        rows = [
            [
                each.file,
                each.given,
                each.suggested,
                f"{each.probability_given:.3f}",
                f"{each.probability_suggested:.3f}",
                "yes" if each.issue else "",
            ]
            for each in self.suspects[:most]
        ]
        yield Line()
        yield TextTable(columns=columns, rows=rows, right=columns[3:5])
        # From Python nothing need have been written; then the record itself has them all.
        if len(rows) < len(self.suspects):
            yield Line(f"and {len(self.suspects) - len(rows):,} more in {self.csv or '.suspects'}")

    def _repr_html_(self) -> str:
        return blocks_html(self.blocks())


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedLabels:
    """The judged images in rows, as the page needs them: features, labels, and what the probes said of each.

    It stays in memory; `LabelCheck` is what is kept.
    """

    files: tuple[ImageFile, ...]
    features: Tensor
    """features[N, F]."""
    labels: Tensor
    """Given class indices[N], into `classes`."""
    classes: tuple[str, ...]
    groups: tuple[int, ...]
    """The same number for copies and near-duplicates."""
    suggested: Tensor
    """Class indices[N]."""
    issues: Tensor
    """bool[N]: whether confident learning counts the label as wrong."""
    ranked: tuple[int, ...]
    """Rows of the suspects, the likeliest first."""
