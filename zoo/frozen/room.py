"""Whether this machine has room for the rows that a plan caches: memory, the cache's limit, the disk.

It is asked before anything is computed: a run that would end for want of room after hours is refused at its beginning,
with what is needed, what is there and the next step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.data.stored_order import digest_of_order
from zoo.errors import OptionError, Refused, RunError
from zoo.specs.plan import Plan, StagePlan
from zoo.storage.eviction import LIMIT, CacheRoom, at_least
from zoo.storage.feature_cache import FeatureCache
from zoo.text import size

_CLOSED_FORM, _SOLVED = 3, 9
"""How many times as much memory as the features alone a fit to all of them takes: a closed form copies and joins them,
the solver makes copies in float64."""
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class NeededRows:
    """What rows are wanted for, which messages say."""

    stage: str = ""
    """The stage's name; empty where they are of no stage."""
    rows: int = 0
    """How many there are in all tables; 0 where that is not known."""
    in_windows: bool = False
    """Whether they are read in windows, so that their files need not stay mapped."""


def memory_size() -> int | None:
    """Bytes of memory that this process may have: those of the machine, or of its container; None where the system
    does not say."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP:
        # A container without a limit says `max` (version 2), or a number beyond any memory (version 1).
        with suppress(OSError, ValueError):
            found.append(int(path.read_text("ascii")))
    return min(found, default=None)


def refuse_without_memory(stage: str, features: int, *, solver: bool) -> None:
    """Refuse to fit a head to all features at once, `features` bytes, where memory cannot hold that.

    Raises OptionError, with the way that needs no more than a window of them.
    """
    # All memory, not what is free now, which other programs change from one command to the next.
    there = memory_size()
    needed = features * (_SOLVED if solver else _CLOSED_FORM)
    if there is None or needed <= there:
        return
    what = "the solver" if solver else "a closed form"
    remedy = f"--set {stage}.solver=gradient" if solver else "a head that is trained in steps, such as --head linear"
    raise OptionError(
        f"Stage {stage!r}: {what} is fitted to all features at once, {size(features)}, and takes about {size(needed)} "
        f"of memory for it; {size(there)} are there.\nNext: {remedy}, which reads them from the disk."
    )


def refuse_without_disk(plan: Plan, cache: FeatureCache, budget: int) -> None:
    """Refuse a plan whose cached rows fit neither into memory, in `budget` bytes, nor into the cache folder.

    What is cached already is no reason: it may be these very rows, or it can be evicted. Raises RunError.
    """
    for stage in plan.stages:
        if stage.inputs == "images" or stays_in_memory(plan, stage, budget):
            continue
        # What a backbone gives in bfloat16 may be stored in half the bytes.
        least = stage.kept_bytes // (2 if plan.precision == "bfloat16" else 1)
        room = cache.room(with_everything=True)
        if room.left < least:
            raise no_room(stage.settings.name, least, room, cache.folder, prefix=stage.inputs == "prefix")


def stays_in_memory(plan: Plan, stage: StagePlan, budget: int) -> bool:
    """Whether all cached rows of a stage are in memory: there are few, or the head is fitted to all of them at once."""
    return stage.kept_bytes <= budget or plan.head.closed_form or stage.solver == "lbfgs"


def refuse_other_shards(stage: StagePlan, order: Sequence[int] | None) -> None:
    """Refuse a stage whose plan counts on another order of the images in their shards: its windows would be others.

    Raises Refused.
    """
    if digest_of_order(order) != stage.shards:
        raise Refused(
            f"Stage {stage.settings.name!r} reads its images in the order of their shards, and that is another one "
            "than when the run was planned.\nNext: put the shards back as they were, or start a new run."
        )


def no_room(stage: str, needed: int, room: CacheRoom, folder: Path, *, prefix: bool) -> RunError:
    """The error for rows that the cache folder cannot hold.

    Args:
        stage: Its name; empty where the rows are of no stage.
        needed: Bytes that are still to be written.
        room: How much room there is.
        folder: The cache folder.
        prefix: Whether the rows are outputs at a cut, which can be computed in every epoch instead.
    """
    steps = []
    if room.held + needed > room.limit:
        steps.append(f"{LIMIT}={at_least(room.held + needed)}")
    if needed >= room.free:
        steps.append(
            f"free {size(needed - room.free + (needed >> 6) + 1)} on that disk, or name a folder on a larger one with "
            "ZOO_CACHE_DIR"
        )
    step = " and ".join(steps) or f"free space there, or raise {LIMIT}"
    # Rows are filled when a run has begun, and its plan stays what it is.
    otherwise = f"; or compute them in every epoch, in a new run: --set {stage}.prefix=off" if prefix else ""
    of = f" of stage {stage!r}" if stage else ""
    held = f", of which {size(room.held)} are in use" if room.held else ""
    goes_on = ", and the run goes on with zoo finetune --resume RUN" if prefix and stage else ""
    return RunError(
        f"The outputs of the frozen groups{of} fit neither into memory nor into {folder}: {size(needed)} are still to "
        f"be cached there, {LIMIT} allows {size(room.limit)}{held}, and {size(max(0, room.free))} are free on the disk."
        f"\nNext: {step}{goes_on}{otherwise}."
    )
