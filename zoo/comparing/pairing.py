"""Pair the predictions of two runs for the same image, matched by its content: under the same name, or under another.

The same files have other names where one run read a folder and the other a table beside it, or an object in Python.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.errors import DataError, Refused, ZooError
from zoo.evaluation.copies import Copies, copies_among
from zoo.evaluation.predictions import ImagePrediction
from zoo.planning.images_of_plan import listed_as_then
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.record import RunRecord
from zoo.specs.data import Split
from zoo.specs.plan import Plan
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.text import counted

SPLITS = ("test", "val", OUT_OF_FOLD)
"""The most telling split first: nothing was chosen on `test`. A run has `val`, or with folds `out_of_fold`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The predictions of two runs for one image, under the same true class."""

    first: ImagePrediction
    second: ImagePrediction


@dataclass(frozen=True, slots=True)
class Paired:
    """What two runs said of the images that both judged."""

    splits: dict[str, tuple[Pair, ...]]
    """Split -> pairs, `test` first; splits without any are left out."""
    relabelled: dict[str, int]
    """Split -> how many images both judged under different true classes. They are in no pair; splits without any are
    left out."""
    ambiguous: dict[str, int]
    """Split -> how many images of the first run the second judged under other names, with copies among them, so that it
    is unknown which is which. They are in no pair; splits without any are left out."""
    copies: dict[str, Copies] | None
    """Split -> which of its pairs are of copies of one another, in their order; splits without any are left out. None:
    the images are gone, so nobody knows."""


class Contents:
    """SHA-256 digests of the images that runs used.

    Plans store one digest of all images together. So the files are read again, and their digests are trusted only if
    they give the plan's digest.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._digests: dict[tuple[Path, str], str] = {}
        self._of_plan: dict[tuple[str, str, int], dict[Split, dict[str, str]] | None] = {}

    def finds(self, plan: Plan) -> bool:
        """Whether what read the data of a run is there; an object may be another one than the run's."""
        return any(qualified_name(source) == plan.data.reader for source in self._registry.data_sources())

    def of(self, plan: Plan) -> dict[str, str] | None:
        """Relative path -> SHA-256 of every image in every split; None if images are missing or have changed."""
        splits = self.by_split(plan)
        return None if splits is None else {file: digest for each in splits.values() for file, digest in each.items()}

    def by_split(self, plan: Plan) -> dict[Split, dict[str, str]] | None:
        """The same for each split by itself."""
        # The seed is part of the key because a split may be drawn from it.
        key = plan.data.digest, plan.data.path, plan.seed
        if key not in self._of_plan:
            self._of_plan[key] = self._read(plan)
        return self._of_plan[key]

    def pixels_of(self, plan: Plan, names: Collection[str]) -> dict[str, str]:
        """Relative path -> SHA-256 of the pixels, of these images; what cannot be read is left out.

        A picture in memory has no file: its bytes are never those of the file with the same pixels.
        """
        if not names:
            return {}
        wanted, digests = set(names), {}
        for file in (file for files in listed_as_then(plan, self._registry).splits.values() for file in files):
            if file.relative in wanted:
                with contextlib.suppress(DataError):
                    picture = decode(file.content(), name=file.relative)
                    pixels = hashlib.sha256(f"{picture.size} ".encode() + picture.tobytes())
                    digests[file.relative] = pixels.hexdigest()
        return digests

    def copies_of(self, plan: Plan, judged: Mapping[str, Collection[str]]) -> dict[str, Copies] | None:
        """Split -> copies among these images of it, byte for byte, in their order; None where the images are gone.

        Of files, those alone are read that have the size of another one.
        """
        found: dict[str, Copies] = {}
        try:
            listed = listed_as_then(plan, self._registry).splits
            every: dict[str, Sequence[ImageFile]] = {split: files for split, files in listed.items()}
            for split, names in judged.items():
                wanted = set(names)
                # Out of fold, the images are those of train.
                parts = [every[split]] if split in every else list(every.values())
                files = [file for part in parts for file in part if file.relative in wanted]
                sizes = Counter(map(_size, files))
                digests = {file.relative: self._digest(file) for file in files if sizes[_size(file)] > 1}
                copies = copies_among(digests.get(name, "") for name in names)
                if copies is not None:
                    found[split] = copies
        except (ZooError, OSError):
            return None
        return found

    def _read(self, plan: Plan) -> dict[Split, dict[str, str]] | None:
        try:
            # The plan's digest covers the splits, and readable files only.
            dataset = listed_as_then(plan, self._registry)
            splits = {
                split: {file.relative: self._digest(file) for file in files} for split, files in dataset.splits.items()
            }
        except (ZooError, OSError):
            return None
        contents = {file: digest for each in splits.values() for file, digest in each.items()}
        return splits if dataset.digest(contents) == plan.data.digest else None

    def _digest(self, file: ImageFile) -> str:
        # Files in an archive or a table share its path, and differ only by their names in it.
        place = file.path, file.relative if file.reader else ""
        if place not in self._digests:
            self._digests[place] = hashlib.sha256(file.content()).hexdigest()
        return self._digests[place]


def pairs_of(first: RunRecord, second: RunRecord, contents: Contents) -> Paired:
    """Pair the predictions for the images that both runs judged under the same true class.

    If the data digests of the plans are equal, so are all images. Otherwise the files are read again, and an image is
    paired only if it has the same content in both: the same bytes under the same name, else the same bytes, or the
    same pixels as a picture in memory, that no other image without a partner has in its split.

    Raises Refused if no image can be paired.
    """
    digests = _digests(first, second, contents)
    paired: dict[str, tuple[Pair, ...]] = {}
    relabelled: dict[str, int] = {}
    ambiguous: dict[str, int] = {}
    for split in SPLITS:
        of_first, of_second = (_by_file(run.predictions, split) for run in (first, second))
        matches = _Matches(of_first, of_second, digests)
        if digests is not None and any(of_session(run.plan.data.reader) for run in (first, second)):
            ours, theirs = matches.rest()
            matches.add(contents.pixels_of(first.plan, ours), contents.pixels_of(second.plan, theirs))
        both = [Pair(of_first[file], of_second[other]) for file, other in matches.partners()]
        if matches.ambiguous:
            ambiguous[split] = len(matches.ambiguous)
        # Under other labels, one run would be called wrong for saying what the other is called right for.
        if pairs := tuple(pair for pair in both if pair.first.label == pair.second.label):
            paired[split] = pairs
        if others := len(both) - len(pairs):
            relabelled[split] = others
    if not paired:
        raise Refused(_no_pair(first, second, sum(relabelled.values()), sum(ambiguous.values())))
    names = {split: [pair.first.file for pair in pairs] for split, pairs in paired.items()}
    return Paired(paired, relabelled, ambiguous, contents.copies_of(first.plan, names))


class _Matches:
    """Which image of the second run each image of the first one is, in one split."""

    def __init__(
        self, first: Collection[str], second: Collection[str], digests: tuple[Mapping[str, str], ...] | None
    ) -> None:
        self._first, self._second = first, second
        self._of_first: dict[str, str] = {}
        self._taken: set[str] = set()
        self.ambiguous: set[str] = set()
        """Images of the first run that the second has under other names, with copies among them."""
        one, two = digests or ({}, {})
        # An image that keeps its name is itself, however many copies of it there are.
        for name in first:
            if name in second and (digests is None or (name in one and one[name] == two.get(name))):
                self._pair(name, name)
        if digests is not None:
            self.add(one, two)

    def partners(self) -> Iterator[tuple[str, str]]:
        """Yield (name in the first run, name in the second), in the order of the first."""
        return ((name, self._of_first[name]) for name in self._first if name in self._of_first)

    def rest(self) -> tuple[list[str], list[str]]:
        """The names in each run that have no partner; nothing where one of them has none left."""
        ours = [name for name in self._first if name not in self._of_first]
        theirs = [name for name in self._second if name not in self._taken]
        return (ours, theirs) if ours and theirs else ([], [])

    def add(self, one: Mapping[str, str], two: Mapping[str, str]) -> None:
        """Pair what has no partner by these digests of both runs, where only one such image of either has a digest."""
        ours, theirs = (_names_by_digest(names, of) for names, of in zip(self.rest(), (one, two), strict=True))
        for digest, names in ours.items():
            others = theirs.get(digest, [])
            if len(names) == len(others) == 1:
                self._pair(names[0], others[0])
            elif others:
                self.ambiguous.update(names)

    def _pair(self, name: str, other: str) -> None:
        self._of_first[name] = other
        self._taken.add(other)


def _size(file: ImageFile) -> int | None:
    """The bytes of a file; None where they are known only once it is read, as inside of an archive."""
    return file.path.stat().st_size if file.reader is None else None


def _names_by_digest(names: Collection[str], digests: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if name in digests:
            found.setdefault(digests[name], []).append(name)
    return found


def _digests(first: RunRecord, second: RunRecord, contents: Contents) -> tuple[Mapping[str, str], ...] | None:
    """The digest of every image by its name, of both runs; None if all are the same under the same names."""
    if first.plan.data.digest == second.plan.data.digest:
        return None
    digests: list[Mapping[str, str]] = []
    for run in (first, second):
        of_run = contents.of(run.plan)
        if of_run is None:
            raise Refused(
                f"{first.path} and {second.path} have different data or other splits, and it is unknown which images "
                f"they have in common: {_gone(run, contents.finds(run.plan))}"
            )
        digests.append(of_run)
    return tuple(digests)


def _no_pair(first: RunRecord, second: RunRecord, relabelled: int, ambiguous: int) -> str:
    """Why no image can be paired, and the next step."""
    if relabelled:
        return (
            f"{first.path} and {second.path} judged {relabelled:,} images in common, all of them under different "
            "labels, so their results cannot be compared.\nNext: train both on the same labels."
        )
    if ambiguous:
        return (
            f"{first.path} and {second.path} judged {counted(ambiguous, 'image')} in common, all of them under other "
            "names and with copies among them, so it is unknown which is which.\n"
            "Next: remove the copies (zoo data check names them), or train both on the same folder."
        )
    if (first.plan.folds is None) != (second.plan.folds is None):
        folded, other = (second, first) if first.plan.folds is None else (first, second)
        assert folded.plan.folds is not None
        return (
            f"{folded.path} was judged out of fold, on the images that it is trained on, and {other.path} on a "
            "validation split, so they judged no image in the same way and their results cannot be compared.\n"
            f"Next: train both with --folds {folded.plan.folds.count}, or both without. A test split would serve both."
        )
    return (
        f"{first.path} and {second.path} judged no image in common, neither by name nor by content, so their results "
        "cannot be compared.\n"
        "Next: train both on the same data; if val is drawn from train, give both the same --seed."
    )


def _gone(run: RunRecord, found: bool) -> str:
    """Why the images of a run cannot be read again, as the end of a sentence, and the next step.

    `found`: data were given for a run that was trained on an object.
    """
    if of_session(run.plan.data.reader):
        why = "and the data given are others" if found else "which no name finds again"
        return (
            f"the images of {run.path} were an object in Python ({run.plan.data.path}), {why}.\n"
            "Next: give the object in Python, zoo.compare(RUN, RUN, data=...), or train both with one seed."
        )
    return (
        f"the images of {run.path} in {run.plan.data.path} are gone or have changed.\n"
        "Next: put them back, or train both on the same images."
    )


def _by_file(predictions: Sequence[ImagePrediction], split: str) -> dict[str, ImagePrediction]:
    return {prediction.file: prediction for prediction in predictions if prediction.split == split}
