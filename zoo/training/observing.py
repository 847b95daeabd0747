"""Observers of a run: told what happens, on copies, and shut off from what the run depends on."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from zoo.errors import Refused, Terminated, ZooError
from zoo.events import Event, Note, PlanReady, Progress, Report, RunFinished, RunStarted, RunStopped
from zoo.registry import Contribution, Registry
from zoo.registry.plugins import one_line
from zoo.specs import ObserverSpec
from zoo.streams import prints_to_stderr

_UNTOLD = (Progress, PlanReady)
"""What only a display needs."""
SLOW_SECONDS, SLOW_SHARE = 1.0, 0.05
"""An observer that takes more than both, of the run's time, is reported."""


@contextlib.contextmanager
def observed(names: Sequence[str], registry: Registry, report: Report) -> Iterator[Report]:
    """Inside, what is reported goes to `report` and to these observers.

    Raises UnknownName or NameConflict for a name, Refused for an observer that cannot be built here: before anything
    runs. Later ones break nothing.
    """
    found = {id(held.spec): held for held in map(registry.observer, names)}
    if not found:
        yield report
        return
    told = _Observed(report, [_Observer(held, _built(held)) for held in found.values()])
    try:
        yield told
    except BaseException as error:
        told.stopped(error)
        raise
    finally:
        told.report_slow_ones()


class _Observer:
    """One of them, until it raises."""

    def __init__(self, held: Contribution[ObserverSpec], call: Callable[[Event], None]) -> None:
        self.label = f"{held.spec.name!r} of {held.plugin.distribution} {held.plugin.version}"
        self.call = call
        self.seconds = 0.0
        self.dropped = False


class _Observed:
    """A `Report` that tells observers as well."""

    def __init__(self, report: Report, observers: Sequence[_Observer]) -> None:
        self._report = report
        self._observers = observers
        self._began = time.perf_counter()
        self._under_way = False

    def __call__(self, event: Event) -> None:
        self._report(event)
        if isinstance(event, _UNTOLD):
            return
        if isinstance(event, (RunStarted, RunFinished)):
            self._under_way = isinstance(event, RunStarted)
        for observer in self._observers:
            if not observer.dropped:
                self._tell(observer, event)

    def stopped(self, error: BaseException) -> None:
        """The run broke off, unless all of it was written before."""
        if self._under_way:
            self(RunStopped(reason="interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)))

    def report_slow_ones(self) -> None:
        """In one sentence each."""
        total = time.perf_counter() - self._began
        for observer in self._observers:
            if observer.seconds > max(SLOW_SECONDS, SLOW_SHARE * total):
                self._report(
                    Note(
                        text=f"Observer {observer.label} took {observer.seconds:.1f} s of {total:.1f} s, "
                        "for which training waited.",
                        loud=True,
                    )
                )

    def _tell(self, observer: _Observer, event: Event) -> None:
        began = time.perf_counter()
        try:
            with prints_to_stderr(), _untouched():
                observer.call(copy.deepcopy(event))
        except (KeyboardInterrupt, Terminated):
            raise
        except BaseException as error:  # sys.exit in an observer ends the observer, not the run
            observer.dropped = True
            text = (
                f"Observer {observer.label} is dropped, the run goes on. At {type(event).__name__}: {one_line(error)}"
            )
            self._report(Note(text=text, loud=True))
        finally:
            observer.seconds += time.perf_counter() - began


def _built(held: Contribution[ObserverSpec]) -> Callable[[Event], None]:
    name, who = held.spec.name, f"{held.plugin.distribution} {held.plugin.version}"
    try:
        with prints_to_stderr(), _untouched():
            made = held.spec.build()
    except (KeyboardInterrupt, Terminated):
        raise
    except (ImportError, ValueError, ZooError) as error:
        raise Refused(f"Observer {name!r} of {who} cannot be used here: {error}") from error
    except BaseException as error:
        raise Refused(f"Observer {name!r} of {who} cannot be built: {one_line(error)}") from error
    if not callable(made):
        raise Refused(f"Observer {name!r} of {who} must be built as a function of an event, got {made!r}.")
    return made


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """What of the process a run depends on is afterwards as it was: what is drawn next, and how torch computes."""
    python, of_numpy, gradients = random.getstate(), np.random.get_state(), torch.is_grad_enabled()
    threads, precision = torch.get_num_threads(), torch.get_default_dtype()
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
