"""A work's programs carried out on this machine."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo.data.dataset import Dataset
from zoo.specs.recipe import Stage as RecipeStage

from benchmarks import programs
from benchmarks.peers.task import Stage, Task
from benchmarks.photos import photos, photos_folder
from benchmarks.rows import Row
from benchmarks.splits import halve, labelled, read_used
from benchmarks.works import Images, Peer, Work, Zoo

_SMOKE, _MOST_KEPT = 40, 4000


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the programs and what they work on are."""

    real: Path | None
    """The folder with `data/` and `weights/`."""
    photos: Path
    """Generated photographs are kept below it."""
    fastai_python: str = sys.executable
    smoke: bool = False
    """A fortieth of the photographs and single epochs: shows that it runs, measures nothing."""

    def reason_to_skip(self, work: Work, program: Zoo | Peer) -> str:
        """Why the program cannot be run here; nothing where it can."""
        if work.images.real and self.real is None:
            return "ZOO_TEST_DATA does not name a folder with real images and weights"
        if work.needs and work.needs not in RecipeStage.model_fields:
            return f"the stages of this zoo do not know the key {work.needs!r}"
        if isinstance(program, Peer) and program.program == "fastai" and not self._has_fastai:
            return f"{self.fastai_python} has no fastai (pip install -e '.[bench]', or --fastai-python)"
        return ""

    def carry_out(self, work: Work, program: Zoo | Peer, seed: int) -> Row:
        """Run the program -> its row. Raises programs.Failed."""
        with tempfile.TemporaryDirectory() as temporary:
            if isinstance(program, Peer):
                return self._run_peer(work, program, seed, Path(temporary))
            return self._run_zoo(work, program, seed, Path(temporary))

    def discard(self, work: Work) -> None:
        """Remove photographs that are too many to be left behind."""
        for program in work.programs:
            if isinstance(program, Zoo) and (program.count or 0) > _MOST_KEPT:
                shutil.rmtree(photos_folder(self.photos, self._count(program.count or 0)), ignore_errors=True)

    def _run_zoo(self, work: Work, program: Zoo, seed: int, temporary: Path) -> Row:
        out, cache = temporary / "run", temporary / "cache"
        data = self._folder(work.images, program.count, seed, temporary)
        options: list[str | Path] = ["--backbone", work.backbone, "--weights", self._weights(work) or "random"]
        options += ["--data", data, "--recipe", program.recipe, "--seed", str(seed)]
        epochs = 1 if self.smoke else program.epochs
        options += ["--epochs", str(epochs)] if epochs else ()
        options += [word for setting in program.settings for word in ("--set", setting)]
        added: Row = {}
        if program.planned:
            programs.plan(options, cache=cache)
        if program.earlier_head:
            earlier = [*options, "--head", program.earlier_head]
            added["earlier"] = programs.finetune(earlier, out=temporary / "earlier", cache=cache)
        row = {**programs.finetune([*options, "--head", program.head], out=out, cache=cache), **added}
        return {**row, **self._fixed_batch(out)} if program.fixed_batch else row

    def _fixed_batch(self, run: Path) -> Row:
        result = run.parent / "fixed_batch.json"
        words: list[str | Path] = [sys.executable, "-m", "benchmarks.fixed_batch", run / "plan.json", result]
        programs.answered([*words, "--seconds", "1" if self.smoke else "15"])
        return programs.read_json(result)

    def _run_peer(self, work: Work, program: Peer, seed: int, temporary: Path) -> Row:
        dataset, images = self._dataset(work.images), work.images
        train = dataset.splits["train"]
        test = halve(dataset, seed).comparison if images.halved else dataset.splits["val"]
        task = Task(
            classes=list(dataset.classes),
            train=labelled(train),
            test=labelled(test),
            weights=self._weights(work),
            seed=seed,
            backbone=work.backbone,
            stages=[Stage(stage.trains, 1) if self.smoke else stage for stage in program.stages],
            precision=program.precision,
        )
        python = self.fastai_python if program.program == "fastai" else sys.executable
        return programs.peer(program.program, task, temporary=temporary, python=python)

    def _folder(self, images: Images, count: int | None, seed: int, temporary: Path) -> Path:
        if not images.real:
            return photos(self.photos, self._count(count or images.count))
        if not images.halved:
            return self._real_folder(images.real)
        return halve(self._dataset(images), seed).link(temporary / "data")

    def _dataset(self, images: Images) -> Dataset:
        if not images.real:
            return read_used(photos(self.photos, self._count(images.count)), [])
        if images.real not in self._used:
            self._used[images.real] = programs.used(self._real_folder(images.real))
        return self._used[images.real]

    @cached_property
    def _used(self) -> dict[str, Dataset]:
        return {}

    def _real_folder(self, name: str) -> Path:
        assert self.real is not None, "skipped before"
        return self.real / "data" / name

    def _weights(self, work: Work) -> str:
        """The file; nothing for random weights."""
        if not work.images.real or self.real is None:
            return ""
        return str((self.real / "weights" / f"{work.backbone}.safetensors").resolve())

    def _count(self, count: int) -> int:
        return max(50, count // _SMOKE // 25 * 25) if self.smoke else count

    @cached_property
    def _has_fastai(self) -> bool:
        return programs.has_fastai(self.fastai_python)
