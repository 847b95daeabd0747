"""Runs of zoo and its peers on networks and sets: what is asked, in which order, and what has no row yet."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from zoo.data.dataset import Dataset

from benchmarks import programs
from benchmarks.programs import Failed
from benchmarks.rows import Row, Run, append_row, missing, read_rows
from benchmarks.sets import ImageSet
from benchmarks.splits import Drawn

DEFAULT = "default"
"""A recipe or head that zoo is not told: it takes its own."""
FIRST = "squeezenet1_1"
"""The network of rows from before they named it."""
RANDOM = "random"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be compared; everything is combined with everything."""

    backbones: Sequence[str]
    data: Sequence[str]
    programs: Sequence[str]
    """`zoo` and peers."""
    seeds: Sequence[int]
    per_class: Sequence[int] = (0,)
    weights: str = ""
    variants: Sequence[tuple[str, str]] = ((DEFAULT, DEFAULT),)
    """zoo's: (recipe, head)."""
    settings: tuple[str, ...] = ()
    label: str = ""

    def runs(self) -> list[Run]:
        """Every run, the first seed on everything before the second. The programs take turns, so that a machine that
        slows down slows all of them."""
        found = []
        for seed, data, per_class, backbone in product(self.seeds, self.data, self.per_class, self.backbones):
            for program, recipe, head in self._programs():
                zoo_alone = {"settings": self.settings, "label": self.label} if program == "zoo" else {}
                run = Run(
                    program=program,
                    data=data,
                    seed=seed,
                    backbone=backbone,
                    weights=self.weights,
                    per_class=per_class,
                    recipe=recipe,
                    head=head,
                    **zoo_alone,  # type: ignore[arg-type]
                )
                found.append(run)
        return found

    def _programs(self) -> Iterator[tuple[str, str, str]]:
        """(program, recipe, head): peers once, with their own."""
        yield from ((program, "", "") for program in self.programs if program != "zoo")
        if "zoo" in self.programs:
            yield from (("zoo", *variant) for variant in self.variants)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the programs and what they work on are."""

    sets: dict[str, ImageSet]
    """By the name that rows give."""
    weights: Path
    """The folder with `NAME.safetensors` of each network."""
    fastai_python: str = sys.executable
    read: dict[str, Dataset] = field(default_factory=dict)
    """Sets that have been read."""

    def weights_of(self, backbone: str, asked: str = "") -> Path | None:
        """The file with the network's weights; None for random ones."""
        if asked == RANDOM:
            return None
        return Path(asked) if asked else (self.weights / f"{backbone.rpartition('/')[2]}.safetensors").resolve()

    def carry_out(self, run: Run) -> Row:
        """Run it -> its row. Raises Failed."""
        images = self._images(run)
        with tempfile.TemporaryDirectory() as temporary:
            work = self._run_zoo if run.program == "zoo" else self._run_peer
            return {**work(run, images, Path(temporary)), "judged": len(images.comparison)}

    def _images(self, run: Run) -> Drawn:
        image_set = self.sets[run.data]
        dataset = self.read.get(run.data) or self.read.setdefault(run.data, image_set.read())
        try:
            return image_set.drawn(dataset, seed=run.seed, per_class=run.per_class)
        except ValueError as error:
            raise Failed(f"{error}. Next: a smaller --per-class") from None

    def _run_zoo(self, run: Run, images: Drawn, temporary: Path) -> Row:
        weights = self.weights_of(run.backbone, run.weights) or RANDOM
        options: list[str | Path] = ["--backbone", run.backbone, "--weights", weights, "--seed", str(run.seed)]
        options += ["--data", images.link(temporary / "data")]
        for option, asked in (("--recipe", run.recipe), ("--head", run.head)):
            options += [option, asked] if asked != DEFAULT else []
        options += [word for setting in run.settings for word in ("--set", setting)]
        row = programs.finetune(options, out=temporary / "run", cache=temporary / "cache")
        if "refused" not in row and not images.are_used(row["images"]):
            raise Failed(f"zoo used other images than the peers: {row['images']} for {images.counts()}")
        return row

    def _run_peer(self, run: Run, images: Drawn, temporary: Path) -> Row:
        weights = self.weights_of(run.backbone, run.weights) or ""
        task = images.task(backbone=run.backbone, weights=str(weights), seed=run.seed)
        python = self.fastai_python if run.program == "fastai" else sys.executable
        return programs.peer(run.program, task, temporary=temporary, python=python)


def carry_out(bench: Bench, asked: Sequence[Run], results: Path) -> int:
    """Carry out what has no row yet -> how many failed."""
    left = missing(list(asked), read_rows(results), backbone=FIRST)
    print(f"{len(asked)} runs, {len(asked) - len(left)} done already", flush=True)
    failed = 0
    for number, run in enumerate(left, start=1):
        try:
            row = bench.carry_out(run)
        except Failed as error:
            failed += 1
            print(f"[{number}/{len(left)}] {run}: failed\n{error}", file=sys.stderr, flush=True)
            continue
        append_row(results, run, row)
        ended = "refused" if "refused" in row else f"{row['accuracy']:.3f} in {row['seconds']:.0f} s"
        print(f"[{number}/{len(left)}] {run}: {ended}", flush=True)
    return failed
