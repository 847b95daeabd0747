"""Prepare a run: from a request, or the stored plan of a stopped run, to a plan, a model and images ready to train."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.store import ImageStore
from zoo.distributed.group import ProcessGroup, current
from zoo.errors import Unreachable
from zoo.evaluation.context import Clock, RunContext
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.events import Note, Report
from zoo.frozen.cut_check import cut_fault
from zoo.model.adapters import adapted
from zoo.model.model import ZooModel, check_shapes
from zoo.planning.build_plan import CHUNK, build_plan, compute_of_run
from zoo.planning.examine import Examined, examine, examine_part, examine_rest, open_store
from zoo.planning.fold_plan import plan_folds
from zoo.planning.precision import ComputeChoice
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved, resolve
from zoo.probes.folds import Folds
from zoo.process import keep_freed_memory
from zoo.registry.registry import Registry
from zoo.specs.plan import Compute, Plan, StagePlan
from zoo.training import seeding
from zoo.training.divisible import refuse_one_process, refuse_parts
from zoo.training.processes import agreed, refuse_device, refuse_unshared_statistics
from zoo.training.stored_plan import resolve_again
from zoo.training.trained_before import with_trained_before
from zoo.weights.download import on_bytes, on_start
from zoo.weights.obtain import Weights, WeightsChoice, examine_weights, obtain_weights

PARTS = ("data", "features", "train", "evaluate")
"""The parts of a run whose seconds are counted."""
Load = Literal["weights", "random", "nothing"]
"""What a run is prepared with: a model with the weights asked for, one with random weights, or no model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run that is ready to train: every choice is made, the images were opened, nothing is written yet.

    Of many images a part was opened, where `prepare` was told so; `complete` opens the rest.
    """

    resolved: Resolved
    """What the names of the request stand for."""
    plan: Plan
    """The plan that this machine makes of the request, or of the stored plan."""
    examined: Examined
    """The images, split and labelled, and what is known of those that were opened."""
    store: ImageStore
    """Reads the images; closed when `prepare` is left."""
    folds: Folds | None
    """Of the training images; None for a run with a validation split."""
    model: ZooModel | None
    """The model on the run's device; None where nothing was to be loaded."""
    report: Report
    """Called with every event."""
    clock: Clock
    """Counts the run's seconds, those of preparing included."""
    decode_seconds: float
    """Seconds that opening every image takes: measured, or scaled up from a part."""
    complete: Callable[[], PreparedRun]
    """Opens the images that were not opened yet, and gives the run as it is planned when all are known. Raises
    DataError where too many cannot be read."""

    def context(self, plan: Plan | None = None) -> RunContext:
        """Return what training works with; `plan`: the stored plan of a resumed run, in place of the one made now."""
        assert self.model is not None, "the run was prepared without a model"
        return RunContext(
            plan=plan or self.plan,
            dataset=self.examined.dataset,
            store=self.store,
            model=self.model,
            report=self.report,
            clock=self.clock,
        )


@contextlib.contextmanager
def prepare(
    asked: Request | Plan,
    registry: Registry,
    report: Report,
    *,
    load: Load = "weights",
    trains: bool = True,
    offline: bool = False,
    dataset: Dataset | None = None,
    opens_all: bool = True,
    accept: Callable[[Plan], None] = lambda found: None,
) -> Iterator[PreparedRun]:
    """Look up names, fetch weights, open images, build the model and the plan.

    A context manager: inside it images can be read. Running, resuming, verifying and estimating all prepare here, so
    that they cannot differ.

    Args:
        asked: A request, or the stored plan of a run, which is resolved again on this machine.
        registry: Where names are looked up.
        report: Called with every event.
        load: What to prepare the run with. Only `weights` downloads anything.
        trains: Whether a whole run follows. Decoded images that memory does not hold are then kept on disk.
        offline: For a stored plan, which does not say: do not use the network.
        dataset: For a request: images that were found already, in place of those that it names.
        opens_all: Whether every image is opened. Without it no more are than the request says, or the stored plan says
            that were; in folds all are, which depend on what images look like. Several processes open all: for a
            stored plan of a part, when it has been accepted.
        accept: For a stored plan: called with the plan that this machine makes of it, before a model is built, so that
            a refusal names the difference that another architecture or file would only fail on.

    Raises:
        ZooError: A choice is refused, or weights or images cannot be read.
    """
    if load != "nothing":
        # Large activations come and go in every pass. Pages that the system clears anew are half of a ResNet-50's.
        keep_freed_memory()
    stored = asked if isinstance(asked, Plan) else None
    clock, group = Clock(*PARTS), current()
    if not isinstance(asked, Plan):
        refuse_one_process(asked, group)
    with clock.measure("data"):
        resolved = _resolve(asked, registry, report, offline=offline, dataset=dataset)
    refuse_device(resolved.device, group)
    # Before the images are opened: without a network the error comes in seconds.
    weights, fallback = group.first_here(lambda: _weights(resolved, load, report))
    # Several processes share the opening of all images, and need the part alone that a stored plan was made of.
    of_part = stored is not None and stored.data.examined is not None
    opens_all = opens_all or (group.several and not of_part) or resolved.request.folds is not None
    most = None if opens_all else _most(resolved, stored)
    shown = load == "nothing" and not trains
    # A part of the images gets its part of the memory, so that what is measured on it holds for all.
    share = min(1.0, most / sum(map(len, resolved.dataset.splits.values()))) if most else 1.0
    with contextlib.closing(open_store(resolved, trains=trains, shown=shown, share=share)) as store:
        with clock.measure("data"):
            began = time.perf_counter()
            if most is None:
                examined = examine(resolved.dataset, store, report)
            else:
                seed = resolved.request.seed
                examined = examine_part(resolved.dataset, store, report, most=most, seed=seed, recall=shown)
            decode_seconds = (time.perf_counter() - began) * examined.scale
            folds = group.from_main(
                lambda: plan_folds(examined.dataset, resolved.request, report, workers=store.workers)
            )
            # Measured once: another process may find another way the fastest.
            measured = group.from_main(lambda: _choice_of(stored) if stored else compute_of_run(resolved, report))
        # Now: resolving a stored plan has set the number that the run began with.
        threads = torch.get_num_threads()

        def plan_with(
            examined: Examined,
            weights: Weights,
            cut_fault: Callable[[str], str] | None = None,
            asked_by: ProcessGroup = group,
        ) -> Plan:
            why = fallback or (stored.weights.fallback if stored else None)
            built = build_plan(
                resolved,
                examined,
                store,
                measured,
                threads=threads,
                weights=weights,
                folds=folds.plan if folds else None,
                fallback=why,
                cut_fault=cut_fault,
            )
            if stored is None or of_part:
                file = resolved.model.weights.path
                built = with_trained_before(built, file, examined.dataset, registry, report, asked_by)
            in_parts = resolved.request.shard_backbone
            of_several = {"processes": group.count, "shard_backbone": in_parts}
            return built if not group.several else built.model_copy(update=of_several)

        # A resumed run follows its stored plan, whose cuts were checked. Random weights prove nothing about real ones.
        checks_cuts = stored is None and load == "weights"
        plan = None if checks_cuts else plan_with(examined, weights)
        if stored is not None and plan is not None:
            accept(plan)
        if group.several and examined.part is not None:
            # The model is built, and the processes compared, with what all of them then know.
            with clock.measure("data"):
                examined = examine(resolved.dataset, store, report)
            plan = plan_with(examined, weights)
        model = None if load == "nothing" else build_model_of_run(resolved, examined, measured.compute, weights)
        weights = replace(weights, state=None)  # a second copy of the model's parameters
        if plan is None:
            plan = plan_with(examined, weights, _cut_check(model, examined, store) if model is not None else None)
        if model is not None:
            plan = agreed(plan, model, group)
            refuse_unshared_statistics(stored or plan, model, group)
            refuse_parts(stored or plan, model, group)

        def prepared(plan: Plan, examined: Examined) -> PreparedRun:
            return PreparedRun(
                resolved=resolved,
                plan=plan,
                examined=examined,
                store=store,
                folds=folds.folds if folds else None,
                model=model,
                report=report,
                clock=clock,
                decode_seconds=decode_seconds,
                complete=complete,
            )

        def complete() -> PreparedRun:
            with clock.measure("data"):
                whole = examine_rest(resolved.dataset, examined, store, report)
            cut_fault = _cut_check(model, whole, store) if model else None
            # The first process completes the plan by itself, and sends it to the others.
            return prepared(plan_with(whole, weights, cut_fault, ProcessGroup()), whole)

        yield prepared(plan, examined)


def _most(resolved: Resolved, stored: Plan | None) -> int | None:
    """The most images that are opened at first; None: all."""
    if stored is None:
        return resolved.request.examine
    return stored.data.examined.images if stored.data.examined else None


def with_adapters(model: ZooModel, stage: StagePlan, seed: int) -> AbstractContextManager[None]:
    """Return a context manager inside which the model has the stage's adapters, where it has any.

    Their initial values depend on seed and stage alone. Everything outside sees upstream's own modules and names.
    """
    if stage.adapters:
        seeding.seed_torch(seeding.adapters_key(seed, stage.settings.name))
    settings = stage.settings
    return adapted(model, stage.adapters, rank=settings.adapter_rank, alpha=settings.adapter_alpha)


def _resolve(
    asked: Request | Plan, registry: Registry, report: Report, *, offline: bool, dataset: Dataset | None
) -> Resolved:
    if isinstance(asked, Plan):
        return resolve_again(asked, registry, report, offline=offline)
    return resolve(asked, registry, report, dataset=dataset)


def _weights(resolved: Resolved, load: Load, report: Report) -> tuple[Weights, str | None]:
    """Return the weights, and why random ones replace those asked for, if they do.

    With tensors only where they are to be loaded.
    """
    if load == "weights":
        weights, fallback = _obtain(resolved, report)
    else:
        architecture, offline = resolved.model.architecture(), resolved.request.offline
        weights = examine_weights(resolved.model.backbone, resolved.model.weights, architecture, offline=offline)
        fallback = None
    if weights.note:
        report(Note(text=weights.note, loud=weights.ambiguous))
    return weights, fallback


def _obtain(resolved: Resolved, report: Report) -> tuple[Weights, str | None]:
    """Obtain the weights. Random ones replace them where no host can be reached, loudly and on the sample set alone.

    Not with `offline`: who asks for no network gets an error for weights that are not on this machine.
    """
    backbone, choice = resolved.model.backbone, resolved.model.weights
    architecture = resolved.model.architecture()
    try:
        weights = obtain_weights(
            backbone,
            choice,
            architecture,
            offline=resolved.request.offline,
            announce=on_start(report),
            progress=on_bytes(report),
        )
        return weights, None
    except Unreachable as error:
        if resolved.request.data is not None:
            raise
        reason = str(error).splitlines()[0]
        report(
            Note(
                text=f"{reason}\nContinuing with RANDOM weights, on the sample set only: "
                "the result says nothing about this backbone.",
                loud=True,
            )
        )
        return Weights(choice=WeightsChoice(kind="random", tag=choice.tag), state=None, digest=None), reason


def _choice_of(plan: Plan) -> ComputeChoice:
    return ComputeChoice(plan.compute, plan.speeds, plan.compute_origin)


def build_model_of_run(resolved: Resolved, examined: Examined, compute: Compute, weights: Weights) -> ZooModel:
    """Build the model on the run's device, initialised from the run's seed.

    Raises WeightsMismatch, PluginError or DeviceError.
    """
    # Right before the model is built: whatever drew random numbers until now changes no weight.
    seeding.seed_torch(f"{resolved.request.seed}/initialisation")
    backbone, head = resolved.model.backbone, resolved.model.head
    with out_of_memory_as_error(f"building {backbone.qualified} with {head.spec.name} on {resolved.device}"):
        model = resolved.model.build(examined.dataset.classes, weights.state).to(resolved.device)
        check_shapes(model)
    model.idle = resolved.outline.idle
    return model.compute_as(compute)


def _cut_check(model: ZooModel, examined: Examined, store: ImageStore) -> Callable[[str], str]:
    """Return a function that says what is wrong with the model cut before a group, on the first validation images."""

    # Decoded when the first cut is looked at, and once for all cuts.
    @functools.cache
    def images() -> Tensor:
        opened = examined.opened
        (batch,) = store.batches((opened.get("val") or opened["train"])[:CHUNK], CHUNK)
        return batch

    def find_fault(before: str) -> str:
        return cut_fault(model, before, images())

    return find_fault
