"""Outputs of a stage's frozen groups: computed once for each image, or read from the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.stored_order import stored_order
from zoo.distributed.group import ProcessGroup, current
from zoo.errors import RunError
from zoo.evaluation import inference
from zoo.evaluation.context import ComputeContext, RunContext
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import Note, Progress
from zoo.frozen.cache_key import Origin, key_of
from zoo.frozen.decision import MEMORY_BUDGET
from zoo.frozen.exchange import Exchange
from zoo.frozen.inputs import CachedInputs
from zoo.frozen.room import NeededRows, no_room, refuse_other_shards, refuse_without_disk, stays_in_memory
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.storage.eviction import CacheRoom
from zoo.storage.feature_cache import CacheKey, FeatureCache, name_of
from zoo.storage.table import Block, ReorderedTable, RowBlock, Table, TablePart, block_of, joined

BLOCK = 4
"""Number of chunks in a file of the cache: a killed run loses no more than these."""
_Filled = TypeVar("_Filled")
_Name = TypeVar("_Name", bound=str)
_ONE_PIECE = 256 << 20
"""Largest size, in bytes, of rows that are copied into one tensor."""
_MOST_MAPPED = 30_000
"""Most files of rows that stay mapped as long as they are used; a system allows some 65,000 in a process."""


class FrozenOutputs:
    """Gives each stage its cached rows. They stay in memory for the next stage, where that uses the same."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._plan = context.plan
        self._model = context.model
        self._cache = FeatureCache()
        refuse_without_disk(self._plan, self._cache, MEMORY_BUDGET)
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
        wanted = (*keys, "as stored") if stage.window else keys
        cut = self._model.cut_before(stage.cut) if stage.inputs == "prefix" else None
        subject = self._subject(cut)
        if self._last is not None and self._last[:2] == (subject, wanted):
            last = self._last[2]
            return CachedInputs(
                last.views, last.val, last.micro_batches, stage.cut
            )  # cut again, for adapters come and go
        self.forget()  # before the new ones are made: there may not be room for both
        self._cache.let_go()
        with self._context.clock.measure("features"):
            kept = self._computed(stage, keys, subject, cut)
        self._last = subject, wanted, kept
        return kept

    def _computed(self, stage: StagePlan, keys: Sequence[str], subject: CacheKey, cut: Cut | None) -> CachedInputs:
        in_memory = stays_in_memory(self._plan, stage, MEMORY_BUDGET)
        val_files = self._context.val
        no_val = val_files == self._context.train  # as in a run in folds
        # Images to be judged stay in the order in which the saved classifier will judge them: in chunks of others they
        # may have other bits.
        train = _OrderedFiles.of(self._context.train, stored=stage.window > 0 and not no_val)
        refuse_other_shards(stage, train.order)

        def fill(filling: TableFiller) -> tuple[tuple[Table, ...], Table]:
            views = tuple(train.numbered(table) for table in self._views(stage, keys, filling, train.files))
            return views, views[0] if no_val and not keys else filling.fill_table(val_files, "of val")

        name = stage.settings.name
        rows = NeededRows(name, self._rows(keys), in_windows=stage.window > 0)
        (views, val), size = self._filled(subject, cut, fill, first=val_files, in_memory=in_memory, of=rows)
        return CachedInputs(views, val, self._context.micro_batches(size, f"validation {name}"), stage.cut)

    def _rows(self, keys: Sequence[str]) -> int:
        """How many rows a stage has in all its tables."""
        train, val = self._context.train, self._context.val
        return max(1, len(keys)) * len(train) + (0 if not keys and val == train else len(val))

    def part(self, train: Sequence[int], held_out: Sequence[int]) -> PartOfOutputs:
        """The rows for a fit to some of the training images, by number, that is judged on others of them."""
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
        of: NeededRows = NeededRows(),
    ) -> tuple[_Filled, int]:
        """Fill tables, and again in smaller batches where memory runs out -> (what `fill` gave, size of a batch)."""
        context = self._context
        micro_batches = context.micro_batches(self._plan.chunk, "features")
        while True:
            filling = TableFiller(
                context, self._cache, subject, cut, micro_batches, in_memory=in_memory, of=of, group=self._group
            )
            if first and self._group.from_main(lambda filling=filling: filling.is_stale(first)):  # type: ignore[misc]
                self._cache.drop(subject)
                self._group.meet()  # a slower process would drop what another one has computed by then
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

    def _views(
        self, stage: StagePlan, keys: Sequence[str], filling: TableFiller, train: Sequence[ImageFile]
    ) -> tuple[Table, ...]:
        augment = stage.settings.augment
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


@dataclass(frozen=True, slots=True)
class _OrderedFiles:
    """Files in the order in which their rows are computed and stored."""

    files: Sequence[ImageFile]
    order: Sequence[int] | None
    """The numbers that they have in the data set's own order; None where it is that order."""

    @classmethod
    def of(cls, files: Sequence[ImageFile], *, stored: bool) -> _OrderedFiles:
        """The files as shards hold them, where that is asked for and known; else as they are."""
        order = stored_order(files) if stored else None
        return cls(files if order is None else [files[number] for number in order], order)

    def numbered(self, table: Table) -> Table:
        """Their rows, counted in the data set's own order."""
        return table if self.order is None else ReorderedTable(table, self.order)


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
        of: NeededRows = NeededRows(),
        group: ProcessGroup | None = None,
    ) -> None:
        """`group`: processes that fill the same tables now, each its share of the blocks. Default: this one alone."""
        self._of = of
        self._later = of.rows
        self._group = group or ProcessGroup()
        self._context = context
        self._cache = cache
        self._subject = subject
        self._cut = cut
        self._micro_batches = micro_batches
        self._in_memory = in_memory
        self._size = micro_batches.size
        self._said = self._told = False
        self._wanted: tuple[int, CacheRoom] | None = None
        self._read_block: Callable[[CacheKey, str], RowBlock | None] = cache.read

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
        alike = found.order == kept.order and found.dtype == kept.dtype
        return not (alike and torch.equal(found.outputs, kept.outputs[: len(found)]))

    def fill_table(self, files: Sequence[ImageFile], task: str, view: tuple[Any, str] | None = None) -> Table:
        """Rows of the files in their order; `view` is (augment, key) for rows of an augmented view."""
        parts = _parts(files, BLOCK * self._size)
        own = self._group.share(len(parts))
        keys = [self._key(parts[number], view) for number in own]
        self._later = max(0, self._later - len(files))
        # A row that is drawn from all is read quickest from files that stay mapped, if the system allows for so many.
        many = len(parts) > _MOST_MAPPED
        # Several processes exchange their blocks, which are mapped then.
        streamed = not self._in_memory and not self._group.several and (many or self._of.in_windows)
        self._read_block = self._cache.stored if streamed or (many and not self._group.several) else self._cache.read
        with self._alone():
            blocks = self._read(keys, task)
            missing = [number for number, block in enumerate(blocks) if block is None]
            self._wanted = self._wanted_by_all(sum(len(parts[own[number]]) for number in missing))
            if missing:
                self._fill(blocks, [parts[number] for number in own], keys, missing, task, view)
            if self._group.several:
                # Rows of smaller batches have other bits than their keys say: who gets them does not keep them.
                smaller = any(self._group.gather(self.in_smaller_batches))
                exchange = Exchange(
                    self._group, self._cache, self._subject, lambda key, it: it if smaller else self._kept(key, it, 0)
                )
                blocks = exchange.of_all(keys, blocks)
        table = Table([block for block in blocks if block is not None], in_memory=not streamed)
        return table.in_one_piece() if self._in_memory and table.bytes <= _ONE_PIECE else table

    def _wanted_by_all(self, rows: int) -> tuple[int, CacheRoom] | None:
        """The rows of a table that all processes have to write, and the room for them before any of them has begun.

        `rows`: those of this process. None where it is alone, or nothing has to be written.
        """
        if self._in_memory or not self._group.several:
            return None
        told = self._group.gather((rows, self._cache.room()))
        return sum(each for each, _ in told), min((room for _, room in told), key=lambda room: room.left)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no process of another run computes the same rows."""
        if self._group.is_main:
            return self._cache.filling(self._subject, self._waiting)
        return contextlib.nullcontext()

    def _read(self, keys: Sequence[str], task: str) -> list[RowBlock | None]:
        blocks: list[RowBlock | None] = []
        for number, key in enumerate(keys, start=1):
            blocks.append(self._read_block(self._subject, key))
            if blocks[-1] is not None:
                self._context.report(Progress(task=f"read {task}", done=number, total=len(keys), unit="files"))
        return blocks

    def _fill(
        self,
        blocks: list[RowBlock | None],
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
            left = len(files) - done
            kept = blocks[number] = self._kept(keys[number], joined(chunks), left)
            if self.in_smaller_batches:
                return  # all rows are computed again, so further ones would be thrown away
            if number == missing[0] and not self._in_memory:
                size = kept.rows[0].nbytes
                rows, room = self._wanted or (left, self._cache.room())
                if room.left < rows * size:
                    raise self._no_room(room, size, rows)

    def _no_room(self, room: CacheRoom, size: int, left: int) -> RunError:
        """The error for `left` rows of this table, `size` bytes each, that the cache cannot hold."""
        needed = (left + self._later) * size
        return no_room(self._of.stage, needed, room, self._cache.folder, prefix=self._cut is not None)

    def _kept(self, key: str, block: Block, left: int) -> RowBlock:
        """The block, in its file unless it is to stay in memory. `left` rows are still to be computed."""
        if self.in_smaller_batches:
            return block  # its bits are not those that the key names; all rows are computed again
        for _ in range(2):  # another process may evict the file in between
            kept = self._cache.keep(self._subject, key, block)
            if self._in_memory:
                self._tell_unkept(kept)
                return block
            stored = self._read_block(self._subject, key) if kept else None
            if stored is not None:
                return stored
        raise self._no_room(self._cache.room(), block.halved().bytes // len(block), len(block) + left)

    def _tell_unkept(self, kept: bool) -> None:
        """Say once that rows are not there for later runs, unless the cache is switched off."""
        if not (kept or self._told or self._cache.limit == 0):
            self._told = True
            text = f"{self._cache.folder} has no room for these features: a later run computes them again."
            self._context.report(Note(text=text))

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


def _parts(files: Sequence[ImageFile], size: int) -> list[Sequence[ImageFile]]:
    return [files[start : start + size] for start in range(0, len(files), size)]
