"""A trial that is a whole run, carried out by a worker process: from its beginning, or from its checkpoint.

    python -m zoo.sweeping.trial_runs < JOB

A worker on this machine reads its job from stdin, which stays open as long as the process that wants the result lives:
an end of stdin ends the worker, so that nothing goes on training for a sweep that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import CheckFailed, DeviceError, FeaturesError, PluginError, Refused, ZooError, first_line
from zoo.planning.request import Request, make_request
from zoo.storage.passing_faults import cause_of

ANSWER = "zoo-trial "
"""Begins the line of stdout that holds the outcome."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunJob:
    """What a worker is to do, in plain JSON types."""

    number: int
    """Of the trial."""
    request: Mapping[str, Any]
    """The arguments of `zoo finetune`, as `make_request` takes them."""
    run: str
    """The run folder, which may hold a run that was stopped."""
    threads: int
    """Threads that torch computes with."""
    cores: tuple[int, ...] = ()
    """Cores that the process is bound to; empty: any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How a run ended that was not lost."""

    val: dict[str, float]
    kept: str
    seconds: float
    fault: str
    stops: bool = False
    """Whether the fault is one of this machine, its disk or its files, which no other trial would escape."""


OF_TRIAL = (CheckFailed, DeviceError, FeaturesError, PluginError, Refused)
"""Errors that a trial has because of its settings: it failed, and others go on."""
_PASSING = (MemoryError, ConnectionError, TimeoutError)
"""Errors that depend on what else goes on: the worker counts as lost, and the run goes on in another one."""


def job_of(number: int, request: Request, run: Path, *, threads: int, cores: Sequence[int] = ()) -> RunJob:
    """The job of a trial."""
    fields: dict[str, Any] = {
        **asdict(request),
        "data": str(request.data),
        "out": str(run.absolute()),
    }
    return RunJob(number=number, request=fields, run=str(run.absolute()), threads=threads, cores=tuple(cores))


def carry_out_run(job: RunJob) -> RunOutcome:
    """Train the trial's run to its end in this process, from its checkpoint where it has one.

    A fault of the run itself is an outcome: it would come again. What is raised is a lost worker.
    """
    from zoo.process import share_the_processor, use_threads

    # In this order: OpenMP looks at variables and cores once, when `use_threads` imports torch.
    share_the_processor()
    _bind(job.cores)
    use_threads(job.threads)
    run = Path(job.run)
    goes_on = run.exists()
    try:
        with contextlib.suppress(CheckFailed):  # everything is written; the result says it
            _train(job, run)
    except ZooError as error:
        # A run that may not go on, because something is not as it was, did not fail by its settings.
        stops = not isinstance(error, OF_TRIAL) or (goes_on and isinstance(error, Refused))
        return RunOutcome(val={}, kept="", seconds=0.0, fault=str(error), stops=stops)
    except Exception as error:
        found = outcome_of_error(error)
        if found is None:
            raise
        return found
    return outcome_of(run)


def outcome_of_error(error: Exception) -> RunOutcome | None:
    """The outcome of a run that code ended by an error of its own, as a plugin may; None where it may pass."""
    if isinstance(error, _PASSING) or type(error).__name__ == "AcceleratorError":  # torch's, of a GPU that failed
        return None
    fault = (
        f"{type(error).__name__}: {first_line(error)}\nNext: zoo finetune with these settings shows where it is raised."
    )
    # A disk that is full or read-only: no settings are at fault, and `--resume` must try them again.
    stops = isinstance(error, OSError) and error.errno is not None and cause_of(error) == "passing"
    return RunOutcome(val={}, kept="", seconds=0.0, fault=fault, stops=stops)


def outcome_of(run: Path) -> RunOutcome:
    """Read the outcome of a run that has ended: of one without a result, that no stage could be kept."""
    from zoo.specs.run_result import kept_in_words
    from zoo.storage.atomic import parse_json
    from zoo.training.run_folder import PROOF, RESULT

    if not (run / RESULT).exists():
        return RunOutcome(val={}, kept="", seconds=0.0, fault=_fault(run / PROOF))
    content = parse_json((run / RESULT).read_text("utf-8"))
    failed = content["proof"] == "failed"
    return RunOutcome(
        val={} if failed else dict(content["metrics"]["val"]),
        kept=kept_in_words(content["selection"]),
        seconds=float(content["seconds"]["total"]),
        fault=_fault(run / PROOF) if failed else "",
    )


def _train(job: RunJob, run: Path) -> None:
    from zoo.events import silent
    from zoo.registry.registry import default_registry
    from zoo.training.resume import resume
    from zoo.training.run import finetune
    from zoo.training.run_folder import PLAN, has_result

    if has_result(run):  # the last worker was lost after its work was done
        return
    registry = default_registry()
    if (run / PLAN).exists():
        resume(run, registry, silent, offline=bool(job.request["offline"]))
    else:
        # As many decoding threads as the worker has cores, which is known only where it runs.
        finetune(make_request(**{**job.request, "workers": job.threads}), registry, silent)


def _fault(proof: Path) -> str:
    from zoo.storage.atomic import parse_json

    try:
        checks = parse_json(proof.read_text("utf-8"))["checks"]
    except (OSError, ValueError, KeyError):
        return "it ended without a result"
    failed = [f"{check['name']}: {check['summary']}" for check in checks if check["verdict"] == "failed"]
    return failed[0] if failed else "no stage was finished"


def _bind(cores: Sequence[int]) -> None:
    """Bind this process to its cores, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # a core that was taken away in the meantime
            os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _ending_with_stdin() -> Iterator[RunJob]:
    line = sys.stdin.readline()
    content = json.loads(line)

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)  # `sys.exit` would end this thread alone

    threading.Thread(target=wait, name="zoo-parent", daemon=True).start()
    yield RunJob(**{**content, "cores": tuple(content["cores"])})


def main() -> None:
    """Carry out the job on stdin, and say the outcome on stdout."""
    from zoo.process import prints_to_stderr

    with _ending_with_stdin() as job:
        try:
            with prints_to_stderr():
                outcome = carry_out_run(job)
        except Exception as error:
            print(f"{type(error).__name__}: {first_line(error)}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
        print(ANSWER + json.dumps(asdict(outcome)), flush=True)
        # Past the interpreter's own end: it needs the lock of stdin, which the waiting thread holds, and would abort.
        os._exit(0)


if __name__ == "__main__":
    main()
