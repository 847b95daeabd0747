"""Which predictions of two runs are about the same image: by name, and by what the files hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.comparing.significance import Outcomes
from zoo.data.folder import read_folder
from zoo.errors import DataError, Refused
from zoo.evaluation.predictions import ImagePrediction
from zoo.planning.plan import Plan
from zoo.reporting.record import RunRecord

SPLITS = ("test", "val")
"""What says most comes first: nothing was chosen on `test`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two runs said about one image."""

    first: ImagePrediction
    second: ImagePrediction


class Contents:
    """Digests of the files that runs used, read again and only believed where they give the plan's digest."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}
        self._of_plan: dict[tuple[str, str, int], dict[str, str] | None] = {}

    def of(self, plan: Plan) -> dict[str, str] | None:
        """Relative path -> SHA-256, of every image of every split; None where the images are gone or have changed."""
        key = plan.data.digest, plan.data.path, plan.seed
        if key not in self._of_plan:
            self._of_plan[key] = self._read(plan)
        return self._of_plan[key]

    def _read(self, plan: Plan) -> dict[str, str] | None:
        try:
            dataset = read_folder(Path(plan.data.path), seed=plan.seed)
            dataset = dataset.without(
                {file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"}
            )
            files = [file for split in dataset.splits.values() for file in split]
            contents = {file.relative: self._digest(file.path) for file in files}
        except (DataError, OSError):
            return None
        return contents if dataset.digest(contents) == plan.data.digest else None

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            with path.open("rb") as file:
                self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[path]


def pairs_of(first: RunRecord, second: RunRecord, contents: Contents) -> dict[str, tuple[Pair, ...]]:
    """Split -> what both runs said about the images that both judged in it, `test` first; splits without any are left
    out.

    Where the two data digests are equal, so are the images. Elsewhere the files are read again, and an image counts
    only if it has the same name and the same bytes in both. Raises Refused where no image is known to be the same.
    """
    same = _same_images(first, second, contents)
    found = {}
    for split in SPLITS:
        of_first, of_second = (_by_file(run.predictions, split) for run in (first, second))
        pairs = [
            Pair(one, of_second[file])
            for file, one in of_first.items()
            if file in of_second and (same is None or file in same)
        ]
        if pairs:
            found[split] = tuple(pairs)
    if not found:
        raise Refused(
            f"{first.path} and {second.path} judged no image in common, so their results cannot be compared.\n"
            "Next: train both on one folder with a val/ (or a test/), or with one --seed where val is drawn."
        )
    return found


def outcomes_of(pairs: Sequence[Pair]) -> Outcomes:
    """Counted; there is at least one pair."""
    right = [(pair.first.right, pair.second.right) for pair in pairs]
    return Outcomes(
        both_right=right.count((True, True)),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        both_wrong=right.count((False, False)),
    )


def _same_images(first: RunRecord, second: RunRecord, contents: Contents) -> set[str] | None:
    """Names of files that are the same in both; None for all of them."""
    if first.plan.data.digest == second.plan.data.digest:
        return None
    known: list[Mapping[str, str]] = []
    for run in (first, second):
        of_run = contents.of(run.plan)
        if of_run is None:
            raise Refused(
                f"{first.path} and {second.path} have different data or another split, and which images they have in "
                f"common cannot be told: those of {run.path} are no longer in {run.plan.data.path} as they were.\n"
                "Next: put them back there, or train both on the same images."
            )
        known.append(of_run)
    return {file for file, digest in known[0].items() if known[1].get(file) == digest}


def _by_file(predictions: Sequence[ImagePrediction], split: str) -> dict[str, ImagePrediction]:
    return {each.file: each for each in predictions if each.split == split}
