"""What a check of labels found, as a record, and the judged images behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.advice.suspects import Suspect
from zoo.data.dataset import ImageFile


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
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedLabels:
    """The judged images in rows, what was said of them, and who is suspected."""

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
    """bool[N]."""
    ranked: tuple[int, ...]
    """Rows of the suspects, the likeliest first."""
