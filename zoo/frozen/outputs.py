"""Outputs of a stage's frozen groups: computed once for each image, or read from the cache."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.distributed.group import ProcessGroup, current
from zoo.errors import RunError
from zoo.evaluation import inference
from zoo.evaluation.context import ComputeContext, RunContext
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import Note, Progress
from zoo.frozen.decision import MEMORY_BUDGET
from zoo.frozen.exchange import Exchange
from zoo.frozen.inputs import CachedInputs
from zoo.model.cut import Cut
from zoo.model.devices import machine_facts
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.storage.eviction import LIMIT
from zoo.storage.feature_cache import CacheKey, FeatureCache, name_of
from zoo.storage.table import Block, Table, TablePart, block_of, joined
from zoo.storage.tensors import tensor_digest

BLOCK = 4
"""Number of chunks in a file of the cache: a killed run loses no more than these."""
_FORMAT = 1
_VERSIONS = ("zoo-registry", "torch", "torchvision", "timm", "pillow")
_Filled = TypeVar("_Filled")
_Name = TypeVar("_Name", bound=str)
_ONE_PIECE = 256 << 20
"""Largest size, in bytes, of rows that are copied into one tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What outputs depend on beside the images and the model's own tensors."""

    backbone: str
    """Qualified name, with the tag."""
    weights: str
    """The tag, `random`, or `file:NAME`."""
    preprocessing: Mapping[str, Any]
    precision: str
    memory_format: str
    device: str
    versions: Mapping[str, str]
    """Distribution -> version."""
    provider: tuple[str, str]
    """Distribution and version of the plugin that provides the backbone."""


def key_of(model: ZooModel, origin: Origin, *, before: str = "", outputs: str = "") -> CacheKey:
    """The key of a model's outputs in the cache: its features, what enters the group `before`, or other `outputs`."""
    return CacheKey(
        {
            "format": _FORMAT,
            "backbone": origin.backbone,
            "weights": origin.weights,
            "outputs": f"before {before} ({model.needs})" if before else outputs or _outputs_of(model),
            "state": state_digest(model, before),
            "preprocessing": origin.preprocessing,
            "precision": origin.precision,
            "memory_format": origin.memory_format,
            "machine": hashlib.sha256("\n".join(machine_facts(origin.device)).encode()).hexdigest()[:16],
            "versions": [origin.versions.get(name) for name in _VERSIONS],
            "provider": list(origin.provider),
        }
    )


class FrozenOutputs:
    """Gives each stage its cached rows. They stay in memory for the next stage, where that uses the same."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._plan = context.plan
        self._model = context.model
        self._cache = FeatureCache()
        self._group = current()
        self._last: tuple[CacheKey, tuple[str, ...], CachedInputs] | None = None

    def forget(self) -> None:
        """Free the rows that are in memory."""
        self._last = None

    def inputs(self, stage: StagePlan) -> CachedInputs:
        """The inputs of a stage that trains on cached rows, as its plan says.

        Raises RunError where neither memory nor disk has room for them.
        """
        keys = stage.view_keys(self._plan.seed)
        cut = self._model.cut_before(stage.cut) if stage.inputs == "prefix" else None
        subject = self._subject(cut)
        if self._last is not None and self._last[:2] == (subject, keys):
            last = self._last[2]
            return CachedInputs(
                last.views, last.val, last.micro_batches, stage.cut
            )  # cut again, for adapters come and go
        self.forget()  # before the new ones are made: there may not be room for both
        self._cache.let_go()
        with self._context.clock.measure("features"):
            kept = self._computed(stage, keys, subject, cut)
        self._last = subject, keys, kept
        return kept

    def _computed(self, stage: StagePlan, keys: Sequence[str], subject: CacheKey, cut: Cut | None) -> CachedInputs:
        # A closed form or a solver is fitted to all rows at once.
        in_memory = stage.kept_bytes <= MEMORY_BUDGET or self._model.closed_form or stage.solver == "lbfgs"
        val_files = self._context.val

        def fill(filling: TableFiller) -> tuple[tuple[Table, ...], Table]:
            views = self._views(stage, keys, filling)
            if not keys and val_files == self._context.train:  # a run in folds has no val
                return views, views[0]
            return views, filling.fill_table(val_files, "of val")

        (views, val), size = self._filled(subject, cut, fill, first=val_files, in_memory=in_memory)
        return CachedInputs(
            views, val, self._context.micro_batches(size, f"validation {stage.settings.name}"), stage.cut
        )

    def part(self, train: Sequence[int], held_out: Sequence[int]) -> PartOfOutputs:
        """The same for a fit to some of the training images, by number, that is judged on others of them."""
        return PartOfOutputs(self, train, held_out)

    def features(self, files: Mapping[_Name, Sequence[ImageFile]]) -> dict[_Name, Tensor]:
        """Return the features[N, F] of several lists of files, each under its name, which progress is reported with."""

        def fill(filling: TableFiller) -> dict[_Name, Table]:
            return {name: filling.fill_table(each, f"of {name}") for name, each in files.items() if each}

        first = next((each for each in files.values() if each), ())
        with self._context.clock.measure("features"):
            tables, _ = self._filled(self._subject(None), None, fill, first=first, in_memory=True)
        return {name: table.rows(range(len(table))) for name, table in tables.items()}

    def _filled(
        self,
        subject: CacheKey,
        cut: Cut | None,
        fill: Callable[[TableFiller], _Filled],
        *,
        first: Sequence[ImageFile],
        in_memory: bool,
    ) -> tuple[_Filled, int]:
        """Fill tables, and again in smaller batches where memory runs out -> (what `fill` gave, size of a batch)."""
        context = self._context
        micro_batches = context.micro_batches(self._plan.chunk, "features")
        while True:
            filling = TableFiller(
                context, self._cache, subject, cut, micro_batches, in_memory=in_memory, group=self._group
            )
            if first and self._group.from_main(lambda filling=filling: filling.is_stale(first)):  # type: ignore[misc]
                self._cache.drop(subject)
                context.report(
                    Note(
                        text="The cached features differ from what this machine computes now: they are computed again.",
                        loud=True,
                    )
                )
            filled = fill(filling)
            # In any process: blocks of two sizes do not belong together.
            micro_batches.size = min(self._group.gather(micro_batches.size))
            if not filling.in_smaller_batches:
                return filled, micro_batches.size
            # Memory ran out. Smaller batches give other bits, so all rows are computed again in batches of that size.

    def _views(self, stage: StagePlan, keys: Sequence[str], filling: TableFiller) -> tuple[Table, ...]:
        train, augment = self._context.train, stage.settings.augment
        if not keys:
            return (filling.fill_table(train, "of train"),)
        tasks = [f"of train, view {number} of {len(keys)}" for number in range(1, len(keys) + 1)]
        return tuple(filling.fill_table(train, task, (augment, key)) for task, key in zip(tasks, keys, strict=True))

    def _subject(self, cut: Cut | None) -> CacheKey:
        model, plan = self._model, self._plan
        origin = Origin(
            backbone=plan.backbone.name,
            weights=plan.weights.label,
            preprocessing=plan.preprocessing,
            precision=plan.precision,
            memory_format=plan.memory_format,
            device=plan.device,
            versions=plan.versions,
            provider=(plan.backbone.distribution, plan.backbone.version),
        )
        return key_of(model, origin) if cut is None else key_of(model, origin, before=cut.before)


class PartOfOutputs:
    """Gives each stage of a fold the rows of its images, from those of all images: they are computed once."""

    def __init__(self, whole: FrozenOutputs, train: Sequence[int], held_out: Sequence[int]) -> None:
        self._whole = whole
        self._train = train
        self._held_out = held_out

    def forget(self) -> None:
        """Free the rows that are in memory."""
        self._whole.forget()

    def inputs(self, stage: StagePlan) -> CachedInputs:
        """The inputs of a stage: rows of the fold's training images, and of the held-out ones in place of val."""
        whole = self._whole.inputs(stage)
        views = tuple(TablePart(view, self._train) for view in whole.views)
        return CachedInputs(views, TablePart(whole.val, self._held_out), whole.micro_batches, whole.before)


class TableFiller:
    """Fills tables of rows for one cache key, from the cache where it has them."""

    def __init__(
        self,
        context: ComputeContext,
        cache: FeatureCache,
        subject: CacheKey,
        cut: Cut | None,
        micro_batches: MicroBatches,
        *,
        in_memory: bool,
        group: ProcessGroup | None = None,
    ) -> None:
        """`group`: processes that fill the same tables now, each its share of the blocks. Default: this one alone."""
        self._group = group or ProcessGroup()
        self._context = context
        self._cache = cache
        self._subject = subject
        self._cut = cut
        self._micro_batches = micro_batches
        self._in_memory = in_memory
        self._size = micro_batches.size
        self._said = False

    @property
    def in_smaller_batches(self) -> bool:
        """Whether memory ran out since this object was made."""
        return self._micro_batches.size != self._size

    def is_stale(self, files: Sequence[ImageFile]) -> bool:
        """Whether the cached rows of the first files differ from what is computed now.

        The digests in the cache tell damage. They cannot tell rows that are whole and wrong.
        """
        part = _parts(files, BLOCK * self._size)[0]
        kept = self._cache.read(self._subject, self._key(part, None))
        if kept is None:
            return False
        found = block_of(next(self._outputs(part[: self._size], None)))
        if self.in_smaller_batches:
            return False  # batches of another size give other bits, which prove nothing
        alike = found.order == kept.order and found.rows.dtype == kept.rows.dtype
        return not (alike and torch.equal(found.rows, kept.rows[: len(found)]))

    def fill_table(self, files: Sequence[ImageFile], task: str, view: tuple[Any, str] | None = None) -> Table:
        """Rows of the files in their order; `view` is (augment, key) for rows of an augmented view."""
        parts = _parts(files, BLOCK * self._size)
        own = self._group.share(len(parts))
        keys = [self._key(parts[number], view) for number in own]
        with self._alone():
            blocks = self._read(keys, task)
            missing = [number for number, block in enumerate(blocks) if block is None]
            if missing:
                self._fill(blocks, [parts[number] for number in own], keys, missing, task, view)
            if self._group.several:
                blocks = Exchange(self._group, self._cache, self._subject, self._kept).of_all(keys, blocks)
        table = Table([block for block in blocks if block is not None])
        return table.in_one_piece() if self._in_memory and table.bytes <= _ONE_PIECE else table

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no process of another run computes the same rows."""
        if self._group.is_main:
            return self._cache.filling(self._subject, self._waiting)
        return contextlib.nullcontext()

    def _read(self, keys: Sequence[str], task: str) -> list[Block | None]:
        blocks = []
        for number, key in enumerate(keys, start=1):
            blocks.append(self._cache.read(self._subject, key))
            if blocks[-1] is not None:
                self._context.report(Progress(task=f"read {task}", done=number, total=len(keys), unit="files"))
        return blocks

    def _fill(
        self,
        blocks: list[Block | None],
        parts: Sequence[Sequence[ImageFile]],
        keys: Sequence[str],
        missing: Sequence[int],
        task: str,
        view: tuple[Any, str] | None,
    ) -> None:
        files = [file for number in missing for file in parts[number]]
        outputs = self._outputs(files, view)
        done, total = 0, sum(map(len, parts))
        there = total - len(files)
        for number in missing:
            chunks: list[Block] = []
            while sum(map(len, chunks)) < len(parts[number]):
                chunks.append(block_of(next(outputs)))
                done += len(chunks[-1])
                self._context.report(Progress(task=f"features {task}", done=there + done, total=total))
            blocks[number] = self._kept(keys[number], joined(chunks))

    def _kept(self, key: str, block: Block) -> Block:
        """The block, mapped from its file unless it is to stay in memory."""
        if self.in_smaller_batches:
            return block  # its bits are not those that the key names; all rows are computed again
        for _ in range(2):  # another process may evict the file in between
            kept = self._cache.keep(self._subject, key, block)
            if self._in_memory:
                return block
            mapped = self._cache.read(self._subject, key) if kept else None
            if mapped is not None:
                return mapped
        otherwise = ", or compute it in every epoch (--set STAGE.prefix=off)" if self._cut else ""
        raise RunError(
            f"The outputs of the frozen groups fit neither into memory nor into {self._cache.folder}.\n"
            f"Next: free space there, or raise {LIMIT}{otherwise}."
        )

    def _outputs(self, files: Sequence[ImageFile], view: tuple[Any, str] | None) -> Iterator[Tensor]:
        store, size = self._context.store, self._size
        if view is None:
            batches = store.batches(files, size)
        else:
            batches = inference.view_batches(store, files, size, augment=view[0], key=view[1])
        return inference.outputs(
            forward_of(self._context.model, self._cut), self._context.model, batches, self._micro_batches
        )

    def _key(self, files: Sequence[ImageFile], view: tuple[Any, str] | None) -> str:
        digests = [self._context.store.digest_of(file) for file in files]
        if view is None:
            return name_of([f"plain, {self._size} at a time", *digests])
        names = [file.relative for file in files]  # draws are for a key and a name
        return name_of([f"{view[0]} for {view[1]}, {self._size} at a time", *digests, *names])

    def _waiting(self) -> None:
        if not self._said:
            self._context.report(Note(text="Another process is computing the same features: waiting for it."))
        self._said = True


def forward_of(model: ZooModel, cut: Cut | None) -> Callable[[Tensor], Tensor]:
    """The function images[N, 3, H, W] -> rows[N, ...] that are cached: features, or what crosses the cut."""
    return model.features if cut is None else lambda images: model.outputs_before(cut, images)


def _outputs_of(model: ZooModel) -> str:
    """What the features are, for the key of the cache: what the head needs, and which modules it is read from."""
    read = [f"{each.module}:{','.join(map(str, each.channels))}" for each in model.layers]
    return " ".join([model.needs, *read])


def state_digest(model: ZooModel, before: str = "") -> str:
    """SHA-256 over the backbone's parameters and buffers; `before` limits it to the groups before that one."""
    names = model.groups.names
    held = names[: names.index(before)] if before else names
    tensors = {**dict(model.backbone.named_parameters()), **dict(model.backbone.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        # Groups behind a cut may hold adapters, whose names the partition does not know.
        if model.group_of(f"backbone.{name}") in held:
            digest.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return digest.hexdigest()


def _parts(files: Sequence[ImageFile], size: int) -> list[Sequence[ImageFile]]:
    return [files[start : start + size] for start in range(0, len(files), size)]
