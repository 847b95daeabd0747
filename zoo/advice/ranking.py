"""The record of a shortlist: candidates in order, each set beside the first on the same images.

Nothing is computed on images here: `zoo.advice.shortlist` carries out the rounds and hands over what it found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress, pairwise
from typing import Any

import torch
from torch import Tensor

from zoo import text
from zoo.advice.candidate_backbones import CandidateBackbone, LeftOut
from zoo.advice.latency import Latency
from zoo.data.dataset import Dataset
from zoo.display.blocks import Block, Line, TextTable, blocks_html
from zoo.evaluation.copies import Copies, CountedCopies, copies_among
from zoo.evaluation.metrics import Share, wilson_interval
from zoo.evaluation.significance import ALPHA, Interval, PairedOutcomes, holm, smallest_shown
from zoo.planning.request import Request
from zoo.probes.cross_validation import OutOfFold
from zoo.registry.session import of_session
from zoo.text import in_points, shell_word

_LEFT_OUT = 10
"""Candidates that were left out and are named unless all are asked for."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a cross-validated probe reached on a sample."""

    accuracy: Share
    """Top-1 over the N images, with a 95 % Wilson interval, for which copies are one observation."""
    loss: float
    """Mean log loss in nats."""
    right: Tensor
    """Which images were classified correctly, bool[N], in the order of `files`."""
    files: tuple[str, ...]
    pixels: tuple[str, ...] = ()
    """A digest of each image's pixels, the same for copies. Empty: they are taken to differ."""

    @classmethod
    def of(cls, judged: OutOfFold, targets: Tensor, files: Sequence[str], pixels: Sequence[str]) -> Probe:
        """Score out-of-fold logits against class indices targets[N] of the named files, with digests of their pixels.

        Images that no fold holds out are left out: those of a class with a single image.
        """
        known = judged.known
        right = judged.right(targets)[known]
        named, of_named = (tuple(compress(each, known.tolist())) for each in (files, pixels))
        copies = copies_among(of_named)
        effective = None if copies is None else copies.effective()
        accuracy = wilson_interval(int(right.sum()), len(right), effective=effective)
        # Without folds there would be none, and the caller refuses such a sample.
        assert accuracy is not None, "some image was held out"
        loss = torch.nn.functional.cross_entropy(judged.logits[known].double(), targets[known])
        return cls(accuracy, float(loss), right, named, of_named)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A candidate with what was found out about it."""

    candidate: CandidateBackbone
    latency: Latency | None
    images: int
    """On how many images its probe was judged."""
    accuracy: Share
    loss: float
    difference: float
    """Its accuracy minus that of the first, on the same images; 0 for the first."""
    interval: Interval | None
    """95 % interval of the difference; None for the first."""
    p: float
    """McNemar's p-value of the difference, corrected for the number of candidates by Holm; 1 for the first."""
    as_good: bool
    """Whether it cannot be told from the first on these images."""
    out: str
    """Why it was not compared on all images; empty where it was."""
    command: str
    """The command that fine-tunes it."""

    @property
    def name(self) -> str:
        """The candidate's."""
        return self.candidate.name

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self.candidate), **{key: value for key, value in asdict(self).items() if key != "candidate"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortlist:
    """Backbones ranked on a data set."""

    data: str
    images: int
    """Number of training images."""
    classes: int
    head: str
    seed: int
    budget: float
    """Seconds."""
    seconds: float
    """Seconds that it took."""
    interrupted: bool
    """Whether it was stopped before its end."""
    ranked: tuple[Ranked, ...]
    """The best first. Those that were compared on all images come before those that were dropped."""
    left_out: tuple[LeftOut, ...]
    """What was not compared at all, and why."""
    notes: tuple[str, ...] = ()
    """How the training images were set apart from others, where that was drawn."""
    smallest_shown: float | None = None
    """The smallest difference in accuracy between the first two that these images could have shown; None for one."""
    copies: CountedCopies | None = None
    """Copies, pixel for pixel, among the images that the first was judged on; None where there are none."""

    @property
    def best(self) -> Ranked:
        """The first."""
        return self.ranked[0]

    @property
    def cheapest_as_good(self) -> Ranked:
        """Of those that cannot be told from the first, the one that takes least time for an image."""
        # Of a candidate without a measured latency nobody can say that it is cheap.
        as_good = [each for each in self.ranked if each.as_good and each.latency]
        return min(as_good, key=lambda each: each.latency.alone if each.latency else 0.0, default=self.best)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "data": self.data,
            "images": self.images,
            "classes": self.classes,
            "head": self.head,
            "seed": self.seed,
            "budget": self.budget,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "best": self.best.candidate.name,
            "cheapest_as_good": self.cheapest_as_good.candidate.name,
            "ranked": [each.to_dict() for each in self.ranked],
            "left_out": [asdict(each) for each in self.left_out],
            "notes": list(self.notes),
            "smallest_shown": self.smallest_shown,
            **({"copies": self.copies.to_dict()} if self.copies else {}),
        }

    def table(self, most: int) -> TextTable:
        """The first `most` candidates with what was measured of them."""
        columns = ["backbone", "probe accuracy", "95 % interval", "points to the first", "as good", "ms", "ms in 32"]
        columns += ["params", "licence", "download"]
        rows = [_row(row, first=row is self.best) for row in self.ranked[:most]]
        title = f"Shortlist for {text.counted(self.images, 'training image')}"
        return TextTable(title=title, columns=columns, rows=rows, right=[*columns[1:4], *columns[5:8]])

    def remarks(self, *, whole: bool = False) -> Iterator[Block]:
        """What the table does not say. `whole`: whether everything that was left out is named."""
        for row in self.ranked:
            if row.out:
                yield Line(f"{row.candidate.label} was judged on {row.images:,} images: {row.out}")
        shown = self.left_out if whole else self.left_out[:_LEFT_OUT]
        yield from (Line(f"left out: {each.name}: {each.reason}") for each in shown)
        if len(shown) < len(self.left_out):
            yield Line(f"left out: {len(self.left_out) - len(shown):,} more; zoo -v and --json list them all")
        yield from map(Line, self.notes)
        if self.copies is not None:
            yield Line(self.copies.in_words(self.best.images, alike="pixel for pixel"))
        if self.smallest_shown is not None:
            least = f"{100 * self.smallest_shown:.1f} points"
            yield Line(f"between the first two, these images could only have shown a difference of {least} or more")
        stopped = ", interrupted: the same command goes on from the cache" if self.interrupted else ""
        yield Line(f"time: {text.duration(self.seconds)} of {text.duration(self.budget)}{stopped}")
        yield Line(
            "A probe is a linear layer on pooled features, cross-validated on the training images. It says which "
            "backbone to fine-tune, not how good that will be."
        )

    def next_steps(self) -> Iterator[Line]:
        """The commands that fine-tune the first, and the fastest of those that are as good."""
        yield Line(f"next: {self.best.command}")
        cheapest = self.cheapest_as_good
        if cheapest is not self.best:
            yield Line(f"or, faster and not to be told from it on these images: {cheapest.command}")

    def _repr_html_(self) -> str:
        return blocks_html([self.table(len(self.ranked)), *self.remarks(), *self.next_steps()])


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate with its probes, after the last round and before the ranking."""

    candidate: CandidateBackbone
    latency: Latency | None
    probes: dict[int, Probe]
    """By the number of images that it was judged on; at least one."""
    out: str
    """Why it went no further; empty where it was compared on all images."""
    beaten: bool
    """Whether that was because others were better."""

    @property
    def last(self) -> Probe:
        """The probe on most images."""
        return self.probes[max(self.probes)]


def ranked(
    found: Sequence[Found],
    *,
    left_out: Sequence[LeftOut],
    request: Request,
    dataset: Dataset,
    head: str,
    budget: float,
    seconds: float,
    interrupted: bool,
) -> Shortlist:
    """Put candidates in order, and compare each with the first on the largest sample that both were judged on.

    Args:
        found: At least one, each with at least one probe.
        left_out: What was not compared.
        request: The data and seed, for the commands.
        dataset: The images.
        head: The head that is asked for.
        budget: Seconds that were allowed.
        seconds: Seconds that it took.
        interrupted: Whether it was stopped.
    """
    # What only a part of the candidates went on to, without the best, decides nothing and is left away.
    size = _decisive(found)
    found = [replace(each, probes={n: probe for n, probe in each.probes.items() if n <= size}) for each in found]
    found = [each for each in found if each.probes]
    order = sorted(
        found,
        # More images first: who was dropped may well have had a higher accuracy on the few that it saw.
        key=lambda each: (-max(each.probes), -each.last.accuracy.value, each.last.loss, each.candidate.name),
    )
    first = order[0]
    tested = [_paired(first, each) for each in order[1:]]
    corrected = (1.0, *holm([pair.p for pair in tested]))
    rows = [(0.0, None), *((pair.outcomes.difference, pair.interval()) for pair in tested)]
    return Shortlist(
        # The sample set lies in the cache folder, whose path would mean nothing to the reader.
        data=dataset.source if request.data else "sample",
        images=len(dataset.splits["train"]),
        classes=len(dataset.classes),
        head=head,
        seed=request.seed,
        budget=budget,
        seconds=seconds,
        interrupted=interrupted,
        ranked=tuple(
            Ranked(
                candidate=each.candidate,
                latency=each.latency,
                images=len(each.last.right),
                accuracy=each.last.accuracy,
                loss=each.last.loss,
                difference=row[0],
                interval=row[1],
                p=p,
                as_good=_as_good(each, row, p, first),
                out=each.out,
                command=command(each.candidate, request, head),
            )
            for each, row, p in zip(order, rows, corrected, strict=True)
        ),
        left_out=tuple(left_out),
        notes=dataset.notes,
        smallest_shown=smallest_shown(tested[0].of_pictures) if tested else None,
        copies=None if (copies := copies_among(first.last.pixels)) is None else copies.counted(),
    )


def _as_good(found: Found, row: tuple[float, Interval | None], p: float, first: Found) -> bool:
    """Whether the images do not tell a candidate from the first: neither the test nor the interval does.

    Random weights are not as good as pretrained ones, however few images there are.
    """
    difference, interval = row
    if found is first:
        return True
    # Beaten by another one, on more images than it has in common with the first: there it may be ahead by chance.
    if found.beaten:
        return False
    told = p < ALPHA or (interval is not None and interval.high < 0)
    return difference > 0 or not (told or (found.candidate.random and not first.candidate.random))


def command(candidate: CandidateBackbone, request: Request, head: str) -> str:
    """The command that fine-tunes a candidate on the same data; the call in Python where these are an object."""
    if request.data is not None and of_session(str(request.data)):
        given = {"weights": candidate.weights, "head": head, "seed": request.seed}
        usual = Request(backbone="")
        # In Python as in the command below, only what differs from the defaults is written.
        options = [f"{name}={value!r}" for name, value in given.items() if value != getattr(usual, name)]
        return f"zoo.finetune({', '.join([repr(candidate.backbone), 'data=data', *options])})"
    words = ["zoo", "finetune", "--backbone", shell_word(candidate.backbone)]
    if candidate.weights != "default":
        words += ["--weights", shell_word(candidate.weights)]
    if head != Request(backbone="").head:
        words += ["--head", shell_word(head)]
    if request.data is not None:
        words += ["--data", shell_word(request.data)]
    if request.seed:
        words += ["--seed", str(request.seed)]
    return " ".join(words)


def in_common(probes: Mapping[str, Probe]) -> tuple[dict[str, Tensor], Copies | None]:
    """Return which images each probe classified correctly, bool[N] of each, on the N images that all of them judged.

    Beside it: which of these images are copies of one another. The images of two probes may differ by files that one
    preprocessing can read and another cannot.
    """
    every = list(probes.values())
    common = set(every[0].files).intersection(*(each.files for each in every[1:]))
    # One order for all, so that row n is the same image in each.
    order = [name for name in every[0].files if name in common]
    found = {}
    for name, each in probes.items():
        places = {file: index for index, file in enumerate(each.files)}
        found[name] = each.right[torch.tensor([places[file] for file in order], dtype=torch.long)]
    # A file has the same pixels for all. Where no probe knows any, there are none.
    pixels = dict(zip(every[0].files, every[0].pixels, strict=False))
    return found, copies_among(pixels.get(name, "") for name in order)


def _paired(first: Found, other: Found) -> PairedOutcomes:
    """Both on the largest sample that both were judged on."""
    # There is one: every candidate with a probe was judged in the first round.
    size = max(first.probes.keys() & other.probes.keys())
    right, copies = in_common({"first": first.probes[size], "other": other.probes[size]})
    return PairedOutcomes(right["first"], right["other"], copies)


def _decisive(found: Sequence[Found]) -> int:
    """The largest sample on which the best of every smaller one was judged too: what went further without it says
    nothing about who is first."""
    sizes = sorted({size for each in found for size in each.probes})
    for size, following in pairwise(sizes):
        there = [each for each in found if size in each.probes]
        # By accuracy alone, ties to the first, as the rounds chose whom to go on with.
        best = max(there, key=lambda each: each.probes[size].accuracy.value)
        if following not in best.probes:
            return size
    return sizes[-1]


def _difference(value: float, interval: Interval) -> str:
    """`-1.2 [-3.0, +0.6]`, in points."""
    return f"{in_points(value)} [{in_points(interval.low)}, {in_points(interval.high)}]"


def _row(row: Ranked, *, first: bool) -> list[str]:
    interval, latency = row.accuracy, row.latency
    # Some providers state no size: that is not the same as nothing to download.
    size = text.size(row.candidate.download_bytes) if row.candidate.download_bytes else "not known"
    return [
        row.candidate.label,
        f"{interval.value:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}",
        "first" if first or row.interval is None else _difference(row.difference, row.interval),
        "" if first else "yes" if row.as_good else "no",
        "-" if latency is None else f"{latency.alone:.1f}",
        "-" if latency is None else f"{latency.in_batch:.1f}",
        "-" if row.candidate.parameters is None else f"{row.candidate.parameters / 1e6:.1f}M",
        row.candidate.licence or "-",
        "here" if row.candidate.here else size,
    ]
