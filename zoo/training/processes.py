"""What several processes of a run must have alike: the plan before it, and what each holds after every stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from torch import nn

from zoo.distributed.group import ProcessGroup
from zoo.errors import DeviceError, OptionError, Refused
from zoo.model.model import ZooModel
from zoo.planning.request import Request
from zoo.planning.versions import versions
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.run_result import Check, Verdict
from zoo.storage.tensors import tensors_digest
from zoo.training.shares import is_shared
from zoo.training.stage_watch import StageWatch
from zoo.training.stored_plan import differing_values

_SHOWN = 10
_OF_ITS_OWN: Mapping[str, Any] = {
    "workers": True,
    "threads": True,
    "speeds": True,
    "warnings": True,
    "estimate": True,
    "shortlist": True,
    "data": {"source", "path", "skipped", "notes"},
    "weights": {"path", "download", "download_bytes", "trained_on"},
    "backbone": {"installed_from"},
    "head": {"installed_from"},
}
"""What of a plan may differ between machines: where things are, and what is the same wherever the data are."""
_PLACES = ("data", "out", "weights", "workers", "offline")
"""What of a request may differ between machines: where things are, and what changes no result."""
_WITHOUT_TRAINING = ("frozen_unchanged", "frozen_in_evaluation_mode", "dtype_and_device")
"""Checks that a process can make that only looks on while process 0 trains."""


def refuse_other_commands(command: str, asked: Request | None, group: ProcessGroup) -> None:
    """Raise Refused, naming the differences, where the processes were started with other commands or other versions.

    To be called before they do anything together: they would wait for one another in different places for ever.

    Args:
        command: What this process was asked to do, such as `finetune`.
        asked: The request; None for a run that is resumed, whose plan the first process reads for all.
        group: The processes.
    """
    if not group.several:
        return
    names = [] if asked is None else [each.name for each in fields(asked) if each.name not in _PLACES]
    content = {"command": command, **{name: getattr(asked, name) for name in names}, "versions": versions()}
    # As plain JSON types, because options of a head may be anything, and have to be sent.
    every = group.gather(json.loads(json.dumps(content, default=_plain)))
    for rank, other in enumerate(every):
        if differing := differing_values(every[0], other, words=("in process 0", f"in process {rank}")):
            # Of another command, what it was asked says nothing.
            raise _not_alike(group, differing if other["command"] == command else differing[:1])


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def refuse_device(device: str, group: ProcessGroup) -> None:
    """Raise OptionError or DeviceError for a device that several processes cannot have, each one of its own."""
    if not group.several or device == "cpu":
        return
    if device != "cuda":
        raise OptionError(
            f"--device {device}, and {group.count} processes: each takes the GPU that has its own number.\n"
            "Next: leave --device out, or give cuda or cpu; CUDA_VISIBLE_DEVICES says which GPUs there are."
        )
    import torch

    there = torch.cuda.device_count()
    if group.processes_here > there:
        raise DeviceError(
            f"{group.processes_here} processes on this machine, which has {there} GPUs: each takes one.\n"
            f"Next: start {there} processes here, or give --device cpu."
        )


def refuse_unshared_statistics(plan: Plan, model: ZooModel, group: ProcessGroup) -> None:
    """Raise Refused where a stage that all processes share trains batch norms.

    Each would count the statistics of its own share: the result would be that of smaller batches, without a word.
    """
    if not group.several:
        return
    in_head = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.head.modules())
    for stage in plan.stages:
        name = stage.settings.name
        if stage.inputs == "features":
            continue
        if stage.batch_norms_training:
            raise Refused(
                f"Stage {name!r} trains {stage.batch_norms_training} batch norms, and {group.count} processes would "
                "each see the statistics of their own share of a batch: the result would be another one.\n"
                f"Next: --set {name}.batch_norm=frozen keeps the statistics of the weights; or run it in one process."
            )
        if in_head and "head" in stage.trains:
            raise Refused(
                f"The head {plan.head.name} has a batch norm, and in stage {name!r} {group.count} processes would each "
                "see the statistics of their own share of a batch: the result would be another one.\n"
                "Next: --recipe head_only, whose head one process trains; another head; or run it in one process."
            )


def agreed(plan: Plan, model: ZooModel, group: ProcessGroup) -> Plan:
    """Return the plan of process 0, which all carry out.

    Raises Refused, listing the differences, where another process made another one: of other data, versions, weights.
    """
    if not group.several:
        return plan
    exclude: Any = dict(_OF_ITS_OWN)
    content = plan.model_dump(mode="json", exclude=exclude)
    # What was built, not only what was asked for: files and random draws may differ under equal plans.
    content["weights built"] = tensors_digest(model.state_dict())
    every = group.gather((content, plan))
    for rank, (other, _) in enumerate(every):
        if differing := differing_values(every[0][0], other, words=("in process 0", f"in process {rank}")):
            raise _not_alike(group, differing)
    return every[0][1]


def _not_alike(group: ProcessGroup, differing: Sequence[str]) -> Refused:
    more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    listed = "\n".join(f"  {line}" for line in differing[:_SHOWN])
    return Refused(
        f"The {group.count} processes of this run do not see the same; nothing was trained:\n{listed}{more}\n"
        "Next: give all machines the same files, the same versions, and the same command."
    )


def checks_of_all(watch: StageWatch, group: ProcessGroup, stage: StagePlan) -> list[Check]:
    """Return a stage's checks as they are over all processes, and one on whether all hold the same.

    Args:
        watch: What this process saw of the stage.
        group: The processes.
        stage: The stage.
    """
    if not group.several:
        return watch.checks()
    trained = is_shared(stage) or group.is_main
    # Who only looked on made no step, and would report gradients that never came.
    own = [check for check in watch.checks() if trained or check.name in _WITHOUT_TRAINING]
    every = group.gather(([check.to_dict() for check in own], watch.holds()))
    found = [Check.from_dict(check) for check in every[0][0]]
    for rank, (of_rank, _) in enumerate(every[1:], start=1):
        for content in of_rank:
            found = _with_worse(found, Check.from_dict(content), rank)
    return [*found, _check_alike([held for _, held in every], stage)]


def _with_worse(checks: Sequence[Check], other: Check, rank: int) -> list[Check]:
    """The checks, with that of another process in place of its namesake where it is worse."""
    # Its verdicts go from the best to the worst.
    order = get_args(Verdict)
    by_name = {check.name: check for check in checks}
    mine = by_name.get(other.name)
    if other.verdict == "passed" or (mine is not None and order.index(other.verdict) <= order.index(mine.verdict)):
        return list(checks)
    by_name[other.name] = replace(
        other, summary=f"in process {rank}: {other.summary}", evidence={**other.evidence, "process": rank}
    )
    return list(by_name.values())


def _check_alike(held: Sequence[Mapping[str, str]], stage: StagePlan) -> Check:
    wrong = {
        what: ranks
        for what in held[0]
        # Who only looked on has no optimizer, and so nothing of it to compare.
        if (ranks := [rank for rank, each in enumerate(held) if what in each and each[what] != held[0][what]])
    }
    faults = [f"{what} of process {ranks[0]}" for what, ranks in wrong.items()]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Check(
        name="processes_alike",
        stage=stage.settings.name,
        verdict="failed" if wrong else "passed",
        summary=f"{faults[0]} are not those of process 0{more}"
        if wrong
        else f"{', '.join(held[0])} are bit-identical in all {len(held)} processes",
        evidence={"processes": len(held), "differing": wrong, "digests": dict(held[0])},
    )


def check_number(counts: Sequence[int]) -> Check:
    """Say by how many processes a run was carried out, where that changed while it ran or was more than one."""
    changed = len(set(counts)) > 1
    said = ", then ".join(map(str, counts))
    return Check(
        name="processes",
        verdict="warning" if changed else "passed",
        summary=f"carried out by {said} processes: after the change, sums of gradients were rounded in another order, "
        "so the bytes may not be those of an unbroken run"
        if changed
        else f"carried out by {said} processes from beginning to end",
        evidence={"processes": list(counts)},
    )
