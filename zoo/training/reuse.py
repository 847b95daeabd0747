"""What a stage's frozen part puts out, computed once for each image or found in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.errors import RunError
from zoo.events import Note, Progress
from zoo.features.cache import FeatureCache, Subject, name_of
from zoo.features.folder import LIMIT
from zoo.features.table import Block, Table, block_of, joined
from zoo.model.cut import CannotCut, Cut
from zoo.model.model import ZooModel
from zoo.planning.machine import machine_facts
from zoo.planning.plan import Plan, StagePlan
from zoo.planning.reuse import MEMORY_BUDGET
from zoo.training import inference, seeding
from zoo.training.context import RunContext
from zoo.training.inputs import KeptInputs
from zoo.training.memory import Pieces, memory_suffices
from zoo.training.proof import Check
from zoo.training.watch import tensor_digest

BLOCK = 4
"""Chunks in a file: a killed run loses no more than these."""
_FORMAT = 1
_VERSIONS = ("zoo-registry", "torch", "torchvision", "timm", "pillow")
_ONE_PIECE = 256 << 20
"""Bytes up to which rows are copied together."""


class Reuse:
    """Gives stages their kept rows; the last stage's stay in memory for a next one that wants the same."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._plan = context.plan
        self._model = context.model
        self._cache = FeatureCache()
        self._last: tuple[Subject, tuple[str, ...], KeptInputs] | None = None

    def forget(self) -> None:
        """Let go of what is kept in memory."""
        self._last = None

    def inputs(self, stage: StagePlan) -> KeptInputs:
        """For a stage whose plan says that it trains on kept rows. Raises RunError where there is no room for them."""
        keys = seeding.view_keys(self._plan.seed, stage)
        cut = self._model.cut_before(stage.cut) if stage.inputs == "prefix" else None
        subject = self._subject(cut)
        if self._last is not None and self._last[:2] == (subject, keys):
            last = self._last[2]
            return KeptInputs(last.views, last.val, last.pieces, stage.cut)  # cut anew: adapters come and go
        self.forget()  # not beside the new ones
        self._cache.let_go()
        with self._context.clock.measure("features"):
            kept = self._computed(stage, keys, subject, cut)
        self._last = subject, keys, kept
        return kept

    def _computed(self, stage: StagePlan, keys: Sequence[str], subject: Subject, cut: Cut | None) -> KeptInputs:
        context = self._context
        # A closed form is fitted to all rows at once.
        in_memory = stage.kept_bytes <= MEMORY_BUDGET or self._model.closed_form
        pieces = context.pieces(self._plan.chunk, "features")
        while True:
            work = _Filling(context, self._cache, subject, cut, pieces, in_memory=in_memory)
            if work.is_stale(context.val):
                self._cache.drop(subject)
                context.report(Note(text="Kept features are not what comes out now: computing them anew.", loud=True))
            views = self._views(stage, keys, work)
            val = work.table(context.val, "of val")
            if not work.in_smaller_pieces:
                validation = context.pieces(pieces.size, f"validation {stage.settings.name}")
                return KeptInputs(views, val, validation, stage.cut)
            # Memory ran out on the way: other bits come out of smaller pieces, so all rows are made in these.

    def _views(self, stage: StagePlan, keys: Sequence[str], work: _Filling) -> tuple[Table, ...]:
        train, augment = self._context.train, stage.settings.augment
        if not keys:
            return (work.table(train, "of train"),)
        tasks = [f"of train, view {number} of {len(keys)}" for number in range(1, len(keys) + 1)]
        return tuple(work.table(train, task, (augment, key)) for task, key in zip(tasks, keys, strict=True))

    def _subject(self, cut: Cut | None) -> Subject:
        model, plan = self._model, self._plan
        return Subject(
            {
                "format": _FORMAT,
                "backbone": plan.backbone.name,
                "weights": plan.weights.label,
                "outputs": model.needs if cut is None else f"before {cut.before} ({model.needs})",
                "state": state_digest(model, "" if cut is None else cut.before),
                "preprocessing": plan.preprocessing,
                "precision": plan.precision,
                "memory_format": plan.memory_format,
                "machine": hashlib.sha256("\n".join(machine_facts(plan.device)).encode()).hexdigest()[:16],
                "versions": [
                    plan.versions.get(name) for name in ("zoo-registry", "torch", "torchvision", "timm", "pillow")
                ],
                "provider": [plan.backbone.distribution, plan.backbone.version],
            }
        )


class _Filling:
    """Tables of one subject, from the cache where it has them."""

    def __init__(
        self,
        context: RunContext,
        cache: FeatureCache,
        subject: Subject,
        cut: Cut | None,
        pieces: Pieces,
        *,
        in_memory: bool,
    ) -> None:
        self._context = context
        self._cache = cache
        self._subject = subject
        self._cut = cut
        self._pieces = pieces
        self._in_memory = in_memory
        self._size = pieces.size
        self._said = False

    @property
    def in_smaller_pieces(self) -> bool:
        """Whether memory ran out since this was made."""
        return self._pieces.size != self._size

    def is_stale(self, files: Sequence[ImageFile]) -> bool:
        """Whether the cache's rows of the first files are others than come out now: digests tell damage, not this."""
        part = _parts(files, BLOCK * self._size)[0]
        kept = self._cache.read(self._subject, self._key(part, None))
        if kept is None:
            return False
        found = block_of(next(self._outputs(part[: self._size], None)))
        if self.in_smaller_pieces:
            return False  # other bits say nothing
        alike = found.order == kept.order and found.rows.dtype == kept.rows.dtype
        return not (alike and torch.equal(found.rows, kept.rows[: len(found)]))

    def table(self, files: Sequence[ImageFile], task: str, view: tuple[Any, str] | None = None) -> Table:
        """Rows of the files, in their order; of one augmented view where there is one: (augment, key)."""
        parts = _parts(files, BLOCK * self._size)
        keys = [self._key(part, view) for part in parts]
        with self._cache.filling(self._subject, self._waiting):
            blocks = self._read(keys, task)
            missing = [number for number, block in enumerate(blocks) if block is None]
            if missing:
                self._fill(blocks, parts, keys, missing, task, view)
        table = Table([block for block in blocks if block is not None])
        return table.in_one_piece() if self._in_memory and table.bytes <= _ONE_PIECE else table

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
        """The block, from its file where it is not to stay in memory."""
        if self.in_smaller_pieces:
            return block  # not what the key stands for; all of it is made again
        for _ in range(2):  # another process may make room in between
            kept = self._cache.keep(self._subject, key, block)
            if self._in_memory:
                return block
            mapped = self._cache.read(self._subject, key) if kept else None
            if mapped is not None:
                return mapped
        otherwise = ", or compute it in every epoch (--set STAGE.prefix=off)" if self._cut else ""
        raise RunError(
            f"What the frozen part puts out fits neither into memory nor into {self._cache.folder}.\n"
            f"Next: free space there, or raise {LIMIT}{otherwise}."
        )

    def _outputs(self, files: Sequence[ImageFile], view: tuple[Any, str] | None) -> Iterator[Tensor]:
        store, size = self._context.store, self._size
        if view is None:
            batches = store.batches(files, size)
        else:
            batches = inference.view_batches(store, files, size, augment=view[0], key=view[1])
        return inference.outputs(forward_of(self._context.model, self._cut), self._context.model, batches, self._pieces)

    def _key(self, files: Sequence[ImageFile], view: tuple[Any, str] | None) -> str:
        digests = [self._context.store.digest_of(file) for file in files]
        if view is None:
            return name_of([f"plain, {self._size} at a time", *digests])
        names = [file.relative for file in files]  # draws are for a key and a name
        return name_of([f"{view[0]} for {view[1]}, {self._size} at a time", *digests, *names])

    def _waiting(self) -> None:
        if not self._said:
            self._context.report(Note(text="Another process computes the same features: waiting for them."))
        self._said = True


def forward_of(model: ZooModel, cut: Cut | None) -> Callable[[Tensor], Tensor]:
    """images[N, 3, H, W] -> what is kept of them."""
    return model.features if cut is None else lambda images: model.outputs_before(cut, images)


def state_digest(model: ZooModel, before: str = "") -> str:
    """SHA-256 over the backbone's parameters and buffers, of the groups before one alone where it is named."""
    names = model.groups.names
    held = names[: names.index(before)] if before else names
    tensors = {**dict(model.backbone.named_parameters()), **dict(model.backbone.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        # Groups behind a cut may hold adapters, whose names the partition does not know.
        if model.group_of(f"backbone.{name}") in held:
            digest.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return digest.hexdigest()


def cuts_checked(plan: Plan, model: ZooModel, images: Tensor) -> Plan:
    """The plan with `images` for every stage whose cut backbone does not give the whole one's bits on images."""
    return plan.model_copy(update={"stages": tuple(_checked(stage, model, images) for stage in plan.stages)})


def _checked(stage: StagePlan, model: ZooModel, images: Tensor) -> StagePlan:
    fault = cut_fault(model, stage.cut, images) if stage.inputs == "prefix" else ""
    if not fault:
        return stage
    why = f"{model.name} cut before {stage.cut} {fault}"
    return stage.model_copy(update={"inputs": "images", "cut": "", "kept_bytes": 0, "why": why})


def cut_fault(model: ZooModel, before: str, images: Tensor) -> str:
    """What is wrong with suffix(prefix(images[N, 3, H, W])), as the end of a sentence; empty where it is the whole
    backbone, bit for bit."""
    try:
        cut = model.cut_before(before)
    except CannotCut as error:
        return f"cannot be: {error}"
    images = images.to(next(model.parameters()).device)
    model.eval()
    with torch.no_grad(), memory_suffices("comparing the cut backbone with the whole"):
        whole = model.features(images)
        parts = model.features_after(cut, model.outputs_before(cut, images))
    if torch.equal(whole, parts):
        return ""
    return f"gives other features than the whole, by up to {float((whole - parts).abs().max()):.3g}"


def check_cut(model: ZooModel, stage: StagePlan, images: Tensor) -> Check:
    """A stage's cut, on the images[N, 3, H, W] of validation, right before it is used."""
    fault = cut_fault(model, stage.cut, images)
    return Check(
        name="kept_prefix",
        stage=stage.settings.name,
        verdict="failed" if fault else "passed",
        summary=f"the backbone cut before {stage.cut} {fault}"
        if fault
        else f"cut before {stage.cut}, the backbone gives the whole one's bits on {len(images)} images",
        evidence={"before": stage.cut, "images": len(images)},
    )


def _parts(files: Sequence[ImageFile], size: int) -> list[Sequence[ImageFile]]:
    return [files[start : start + size] for start in range(0, len(files), size)]
