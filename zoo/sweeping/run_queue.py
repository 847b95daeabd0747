"""Many jobs, few workers: each job runs until it has an outcome, and one whose worker is lost goes on from its
checkpoint, at most `RETRIES` times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo.errors import RunError, with_step
from zoo.events import Note, Report
from zoo.sweeping.trial_runs import RunJob, RunOutcome

RETRIES = 2
"""How often a job whose worker was lost is tried again."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended."""

    number: int
    """Of the trial."""
    outcome: RunOutcome | None
    """None: the worker was lost."""
    lost: str = ""
    """How it was lost, in words."""


class Workers(Protocol):
    """Where jobs run."""

    def has_room(self) -> bool:
        """Whether another job may be started now."""

    def start(self, job: RunJob) -> None:
        """Begin a job."""

    def wait(self) -> list[Ending]:
        """Wait until a job ends, at most about a second -> what ended."""

    def stop(self) -> None:
        """End all that runs. Checkpoints stay."""


def carry_out_jobs(
    jobs: Sequence[RunJob], workers: Workers, ended: Callable[[int, RunOutcome, int], None], report: Report
) -> None:
    """Carry out all jobs; stops the workers in the end, however it comes.

    Args:
        jobs: In the order in which they are begun.
        workers: Where they run.
        ended: Called with the trial's number, the outcome, and how often its worker was lost.
        report: Told, loudly, of every lost worker and every job that failed.

    Raises RunError for a fault that no other trial would escape, such as a full disk.
    """

    def end(job: RunJob, outcome: RunOutcome, retries: int) -> None:
        if outcome.fault:
            report(Note(text=f"Trial {job.number} failed: {outcome.fault}", loud=True))
        ended(job.number, outcome, retries)

    waiting, running = deque(jobs), dict[int, RunJob]()
    lost = dict.fromkeys((job.number for job in jobs), 0)
    try:
        while waiting or running:
            while waiting and workers.has_room():
                job = waiting.popleft()
                workers.start(job)
                running[job.number] = job
            for ending in workers.wait():
                job = running.pop(ending.number)
                if ending.outcome is not None and ending.outcome.stops:
                    raise RunError(
                        with_step(
                            f"Trial {job.number} could not be carried out: {ending.outcome.fault}",
                            "mend that; zoo sweep --resume goes on with this trial and the others.",
                        )
                    )
                if ending.outcome is not None:  # a run that failed, too: it would fail again
                    end(job, ending.outcome, lost[job.number])
                    continue
                lost[job.number] += 1
                if lost[job.number] <= RETRIES:
                    report(
                        Note(
                            text=f"The worker of trial {job.number} was lost ({ending.lost}); it goes on from its "
                            f"checkpoint, try {lost[job.number] + 1} of {RETRIES + 1}.",
                            loud=True,
                        )
                    )
                    waiting.appendleft(job)
                else:
                    fault = f"its worker was lost {lost[job.number]} times; the last time: {ending.lost}"
                    outcome = RunOutcome(val={}, kept="", seconds=0.0, fault=fault)
                    end(job, outcome, RETRIES)
    finally:
        workers.stop()
