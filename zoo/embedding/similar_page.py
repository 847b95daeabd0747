"""The page, and the part of a notebook, that show an image beside those nearest to it.

Both are made of one template, so that they look alike. Style sheet and filters are those of the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.errors import DataError
from zoo.reporting.examples import data_uri
from zoo.reporting.page import environment, styles

PAGE, PART = "similar.html", "similar_part.html"
"""Templates: the page, and what a notebook shows."""


@dataclass(frozen=True, slots=True)
class PageRow:
    """A neighbour as it is shown."""

    file: str
    label: str
    split: str
    similarity: float
    remark: str
    """`the image itself`, `an exact copy`, or nothing."""
    uri: str
    """The picture as a `data:` address; empty where it can no longer be read."""


def picture_of(file: ImageFile) -> str:
    """A picture as a `data:` address; empty where it cannot be read any more."""
    try:
        return data_uri(decode(file.content(), name=file.relative))
    except DataError:
        return ""


def labels_in_words(labels: Sequence[str]) -> str:
    """How often each label occurs, the most frequent first: `daisy 7, rose 3`; empty where there are none."""
    counts = Counter(label or "no label" for label in labels)
    return ", ".join(f"{label} {count}" for label, count in counts.most_common()) if any(labels) else ""


def rendered(template: str, facts: Mapping[str, Any], rows: Sequence[PageRow]) -> str:
    """The template as HTML that loads nothing from outside. The same arguments give the same text.

    Args:
        template: `PAGE` or `PART`.
        facts: `image`, `uri`, `backbone`, `group`, `data`, `searched`.
        rows: The neighbours, the nearest first.
    """
    templates = environment("zoo.embedding")
    # Of the others alone: the image itself and its copies say nothing new of its class.
    words = labels_in_words([row.label for row in rows if not row.remark])
    return templates.get_template(template).render(css=styles(templates), rows=rows, words=words, **facts)
