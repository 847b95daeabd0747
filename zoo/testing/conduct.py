"""Checks carried out one after the other: what a plugin does wrong costs one check, and never more."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from zoo.errors import Terminated
from zoo.registry.plugins import one_line
from zoo.streams import prints_to_stderr
from zoo.testing.report import Check, Kind, Report

SEED = 20_240
Trial = TypeVar("Trial")
Step = tuple[str, Callable[[Trial], str]]
"""(name, the check): it returns the sentence of what was found, and raises Fault or Skip."""


class Fault(Exception):
    """What was checked is not as it must be; the message says what was found."""


class Skip(Exception):
    """This check says nothing here; the message is the reason."""


def conduct(kind: Kind, name: str, trial: Trial, steps: Sequence[Step[Trial]]) -> Report:
    """Every check in order. Where the first fails, nothing else can be looked at: the rest is skipped.

    Torch's generators are afterwards as they were; what is printed goes to stderr.
    """
    checks: list[Check] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for step_name, step in steps:
            if checks and checks[0].verdict == "failed":
                checks.append(Check(name=step_name, verdict="skipped", summary=f"{checks[0].name} failed"))
            else:
                checks.append(_carried_out(step_name, step, trial))
    return Report(kind=kind, name=name, checks=tuple(checks))


def _carried_out(name: str, step: Callable[[Trial], str], trial: Trial) -> Check:
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    try:
        # Warnings, a plugin's own or torch.export's, say nothing about the check.
        with warnings.catch_warnings(), prints_to_stderr():
            warnings.simplefilter("ignore")
            torch.manual_seed(SEED)
            return Check(name=name, verdict="passed", summary=step(trial))
    except Skip as reason:
        return Check(name=name, verdict="skipped", summary=str(reason))
    except Fault as fault:
        return Check(name=name, verdict="failed", summary=str(fault))
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:  # sys.exit in a plugin ends its check, not the caller
        return Check(name=name, verdict="failed", summary=f"it raised {_said(error)}")
    finally:
        # A plugin may have left them changed, and the next check is about something else.
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def _said(error: BaseException) -> str:
    try:
        return one_line(error)
    except Exception:  # its own __str__ may be the fault
        return type(error).__name__
