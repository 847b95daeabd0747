"""Run a list of checks one after the other. An exception in a plugin fails one check and never stops the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from zoo.errors import Terminated
from zoo.process import prints_to_stderr
from zoo.registry.entry_points import one_line
from zoo.testing.report import ConformanceCheck, Kind, Report

SEED = 20_240
Trial = TypeVar("Trial")
Step = tuple[str, Callable[[Trial], str]]
"""(name, check function). The function returns a sentence on what it observed, and raises `Fault` or `Skip`."""


class Fault(Exception):
    """A check failed. The message says what was observed and what is required."""


class Skip(Exception):
    """A check does not apply. The message is the reason."""


def conduct(kind: Kind, name: str, trial: Trial, steps: Sequence[Step[Trial]]) -> Report:
    """Run every check in order and return the report.

    If the first check fails, which is the one that builds or plans, there is nothing to examine and the others are
    skipped. The state of torch's random generators is restored afterwards, and whatever a plugin prints goes to stderr.
    """
    checks: list[ConformanceCheck] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for step_name, step in steps:
            if checks and checks[0].verdict == "failed":
                checks.append(ConformanceCheck(name=step_name, verdict="skipped", summary=f"{checks[0].name} failed"))
            else:
                checks.append(_run(step_name, step, trial))
    return Report(kind=kind, name=name, checks=tuple(checks))


def _run(name: str, step: Callable[[Trial], str], trial: Trial) -> ConformanceCheck:
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    # A caller may be inside torch.no_grad(), and several checks need gradients.
    torch.set_grad_enabled(True)
    try:
        # Warnings, whether a plugin's own or torch.export's, do not decide a check.
        with warnings.catch_warnings(), prints_to_stderr():
            warnings.simplefilter("ignore")
            torch.manual_seed(SEED)
            return ConformanceCheck(name=name, verdict="passed", summary=step(trial))
    except Skip as reason:
        return ConformanceCheck(name=name, verdict="skipped", summary=str(reason))
    except Fault as fault:
        return ConformanceCheck(name=name, verdict="failed", summary=str(fault))
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:  # sys.exit in a plugin ends its check, not the caller
        return ConformanceCheck(name=name, verdict="failed", summary=f"it raised {_message(error)}")
    finally:
        # A plugin may have changed these settings; the next check must not inherit them.
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def _message(error: BaseException) -> str:
    try:
        return one_line(error)
    except Exception:  # the error's own __str__ may be what is broken
        return type(error).__name__
