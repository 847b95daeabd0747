"""Resume a stopped run: train on from its checkpoint, or complete a run that only lacks its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.distributed.group import current
from zoo.errors import COPY_FOLDER, CheckFailed, RunError
from zoo.events import Note, PlanReady, Report
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.specs.run_result import Check
from zoo.storage.atomic import parse_json
from zoo.training.prepare import prepare
from zoo.training.proof import failure_message
from zoo.training.result import Result
from zoo.training.run import execute
from zoo.training.run_folder import PROOF, RESULT, RunFolder, RunLock
from zoo.training.stored_plan import read_plan, refuse_differences, refuse_finished


def resume(
    path: Path,
    registry: Registry,
    report: Report,
    *,
    offline: bool = False,
    finished: Callable[[Path], None] = lambda run: None,
) -> Result:
    """Resume a stopped run. It ends with the same bytes as if it had never been stopped.

    The plan is made again on this machine and compared with the stored one: where they differ, the bytes would too. All
    images are opened for that, or the same part of them if the run was stopped before all were.

    Args:
        path: The run folder.
        registry: Where names are looked up.
        report: Called with every event.
        offline: Do not download weights that are not on this machine.
        finished: Called with the run folder when everything is written.

    Raises:
        Refused: The run is finished, or its plan differs from the one made on this machine.
        RunError: `path` is not a run folder, or another process writes it.
        ZooError: As `finetune`.
    """
    # The other processes may be on machines that do not see the folder.
    stored = current().from_main(lambda: _read_unfinished(path))

    def accept(found: Plan) -> None:
        refuse_differences(path, stored, found)

    with prepare(stored, registry, report, offline=offline, opens_all=False, accept=accept) as prepared:
        report(PlanReady(plan=prepared.plan))
        _tell_other_number(stored, current().count, report)
        return execute(prepared, stored, RunFolder(path), registry, finished, resumed=True)


def _read_unfinished(path: Path) -> Plan:
    stored = read_plan(path, finished=False)
    refuse_finished(path)
    return stored


def _tell_other_number(stored: Plan, count: int, report: Report) -> None:
    if count == stored.processes:
        return
    begun = "1 process" if stored.processes == 1 else f"{stored.processes} processes"
    idle = count - stored.processes
    told = (
        f"The run was begun with {begun} and goes on with {count}. Its batches, their order and all random draws stay "
        "the same; sums of gradients are rounded in another order, so the result may differ in its last digits from "
        "that of an unbroken run. The proof says so."
    )
    if idle > 0:
        # Shares are a part of the plan: cut otherwise, dropout would have other draws.
        told += f" Batches stay cut for {begun}: in stages that train the backbone, {idle} of {count} do nothing."
    if stored.shard_backbone and count == 1:
        told += " One process holds the whole backbone, of which each held a part."
    report(Note(text=told, loud=True))


def finish(run: Path, report: Report, finished: Callable[[Path], None]) -> Result:
    """Complete a run that was stopped after its result was written; nothing is computed again.

    Its checkpoint is removed, and `finished` is called with the run folder.

    Raises:
        RunError: `run` is not a run folder, another process writes it, or its files cannot be read.
        CheckFailed: The run's proof failed: the run itself would have raised it.
    """
    read_plan(run)
    folder = RunFolder(run)
    # Held for a moment, only to learn whether another process has it.
    with RunLock(folder.checkpoint.folder, run=run):
        result = Result(path=run, content=_read(run / RESULT))
        checks = [Check.from_dict(check) for check in _read(run / PROOF)["checks"]]
    # Not inside the lock, whose file is among what is removed.
    folder.remove_checkpoint()
    report(Note(text=f"{run} is finished but for its report; nothing is trained again, and the report is written now."))
    finished(run)
    if result.proof == "failed":
        raise CheckFailed(failure_message(checks, run))
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None
    return content
