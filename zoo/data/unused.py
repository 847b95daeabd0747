"""Say which files of a folder are not used, and why, where only its images are: in predictions, scores and vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zoo.specs.data import Skipped
from zoo.text import counted, on_one_line

SHOWN = 5
"""Files that a sentence names. `zoo finetune` shows as many in its plan."""


@dataclass(slots=True)
class UnusedFiles:
    """Counts files that are not used as they are found, and keeps the first few: memory stays flat for very many.

    Hidden files and system files are not among them. Nobody means those, and hidden images have a sentence of their
    own.
    """

    most: int | None = SHOWN
    """How many are kept to be named. None: all."""
    used: frozenset[str] = frozenset()
    """Absolute paths of files that are used all the same, for they were named themselves."""
    count: int = 0
    first: list[Skipped] = field(default_factory=list)

    def add(self, file: Skipped) -> None:
        """Count a file."""
        if file.reason in ("hidden", "system file") or (self.used and os.path.abspath(file.relative) in self.used):  # noqa: PTH100
            return
        self.count += 1
        if self.most is None or len(self.first) < self.most:
            self.first.append(file)

    def sentence(self) -> str:
        """`2 files not used: a.gif: not an image (.gif extension); b.txt: ...`; empty where all are used."""
        if not self.count:
            return ""
        more = self.count - len(self.first)
        rest = f"; and {more:,} more" if more else ""
        return f"{counted(self.count, 'file')} not used: {'; '.join(map(_in_words, self.first))}{rest}."


def unused_sentence(skipped: Iterable[Skipped]) -> str:
    """The sentence for files that are known already, and the next step; empty where all are used."""
    unused = UnusedFiles()
    for file in skipped:
        unused.add(file)
    if not unused.count:
        return ""
    loose = any(file.reason == "not in a class folder" for file in unused.first)
    step = "move them to the folder of their class" if loose else "rename or convert them"
    return f"{unused.sentence()} Next: if they are pictures that belong to the data, {step}."


def as_rows(skipped: Sequence[Skipped]) -> list[list[str]]:
    """[file, reason, detail] of each, which is how a plan has them in JSON."""
    return [[file.relative, file.reason, file.detail] for file in skipped]


def _in_words(file: Skipped) -> str:
    return f"{on_one_line(file.relative)}: {file.reason}{f' ({file.detail})' if file.detail else ''}"
