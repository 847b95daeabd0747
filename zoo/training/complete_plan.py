"""Complete a run's plan that was made of a part of the images: open the others, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from zoo.errors import DataError
from zoo.events import Note
from zoo.specs.plan import Plan, StagePlan
from zoo.text import counted, some
from zoo.training.prepare import PreparedRun
from zoo.training.run_folder import RunFolder

_SHOWN = 5
"""Files that a note names."""


def complete_plan(
    prepared: PreparedRun, plan: Plan, folder: RunFolder, *, resumed: bool
) -> tuple[PreparedRun, Plan, tuple[Note, ...]]:
    """Open the images that were not opened for a plan, and put the plan that holds for all into the run's folder.

    It is the plan that would have been made if all had been opened at once, so that results are the same.

    Args:
        prepared: The run, of which a part of the images was opened.
        plan: Its plan, which the folder holds.
        folder: The run folder, which this process has locked.
        resumed: Whether the folder is of a run that was stopped; if not, it is removed where the data are refused.

    Returns:
        The run of all images, its plan, and what to say of what was found.

    Raises:
        DataError: Too many images cannot be read, or none of a class can.
        RunError: The plan cannot be written.
    """
    try:
        whole = prepared.complete()
    except DataError:
        # Nothing was computed yet. A folder that stayed would refuse the same command once the images are mended.
        if not resumed:
            folder.discard()
        raise
    completed = _with_what_is_not_made_again(whole.plan, plan)
    folder.write_plan(completed)
    return whole, completed, tuple(_notes(plan, completed))


def _with_what_is_not_made_again(completed: Plan, plan: Plan) -> Plan:
    """A stored plan, made again, lacks what chose its backbone, words on what options asked for, and the shares that
    its batches are cut into, whatever the number of processes is now."""
    before = {stage.settings.name: stage for stage in plan.stages}

    def in_words(stage: StagePlan) -> StagePlan:
        earlier = before[stage.settings.name]
        # Words on another choice say nothing of this one.
        if stage.solver_why or stage.solver != earlier.solver:
            return stage
        return stage.model_copy(update={"solver_why": earlier.solver_why})

    data = completed.data.model_copy(update={"notes": plan.data.notes})
    stages = tuple(map(in_words, completed.stages))
    kept = {"shortlist": plan.shortlist, "processes": plan.processes, "shard_backbone": plan.shard_backbone}
    return completed.model_copy(update={"data": data, "stages": stages, **kept})


def _notes(plan: Plan, completed: Plan) -> Iterator[Note]:
    total = plan.data.examined.of if plan.data.examined else 0
    unreadable = [(file, detail) for file, reason, detail in completed.data.skipped if reason == "unreadable"]
    new = [f"{file} ({detail})" for file, detail in unreadable]
    if new:
        left = sum(map(sum, completed.data.images.values()))
        yield Note(
            text=f"All {total:,} images were opened. {counted(len(new), 'of them', 'of them')} cannot be read and "
            f"{'is' if len(new) == 1 else 'are'} left out, so {left:,} are used: {some(new, _SHOWN)}",
            loud=True,
        )
    else:
        yield Note(text=f"All {total:,} images were opened, and all can be read.")
    for earlier, stage in zip(plan.stages, completed.stages, strict=True):
        if differences := list(_differences(earlier, stage)):
            text = f"Now that all are known, stage {stage.settings.name!r} differs from the plan that was shown: "
            yield Note(text=text + "; ".join(differences), loud=True)
    # The others were shown with the plan.
    yield from (Note(text=each, loud=True) for each in completed.warnings if each not in plan.warnings)


def _differences(earlier: StagePlan, stage: StagePlan) -> Iterator[str]:
    """What is decided by the number of images, and was decided otherwise when some of them counted that cannot be read.

    How many there are is told already, with the numbers that follow from it.
    """
    said = [
        (_inputs(earlier), _inputs(stage), stage.why),
        (_shuffled(earlier), _shuffled(stage), ""),
        (f"fitted by {earlier.solver}", f"fitted by {stage.solver}", stage.solver_why),
        (f"batch norm: {earlier.batch_norm}", f"batch norm: {stage.batch_norm}", stage.batch_norm_why),
    ]
    for before, now, why in said:
        if now != before:
            yield f"{now}, not {before}" + (f" ({why})" if why else "")


def _inputs(stage: StagePlan) -> str:
    if stage.inputs == "images":
        return "images in every epoch"
    return "cached features" if stage.inputs == "features" else f"cached activations before {stage.cut}"


def _shuffled(stage: StagePlan) -> str:
    return "shuffled in windows of images" if stage.window else "all shuffled at once"
