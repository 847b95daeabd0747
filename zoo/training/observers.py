"""Observers of a run: plugins that are called with its events, on copies, and cannot change what the run computes."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from zoo.errors import Refused, Terminated, ZooError, with_step
from zoo.events import Event, Note, ObserverSpec, PlanReady, Progress, Report, RunFinished, RunStarted, RunStopped
from zoo.process import finishing, prints_to_stderr
from zoo.registry.entry_points import one_line
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry

SLOW_SECONDS, SLOW_SHARE = 1.0, 0.05
"""An observer is reported as slow when it takes longer than both: so many seconds, and this share of the run's time."""
_NOT_FORWARDED = (Progress, PlanReady)
"""Events that only a display needs."""
_WITHOUT = "leave the observer out, or mend what its error names."


@contextlib.contextmanager
def observed(names: Sequence[str], registry: Registry, report: Report) -> Iterator[Report]:
    """Build observers, and yield a report function that calls `report` and then each of them with every event.

    An observer that raises later is dropped and does not stop the run.

    Raises:
        UnknownName: There is no such observer.
        NameConflict: Several plugins have one of this name.
        Refused: An observer cannot be built on this machine.
    """
    # One that is named twice is built once.
    contributions = {id(found.spec): found for found in map(registry.observer, names)}
    if not contributions:
        yield report
        return
    broadcast = _Broadcast(report, [_Observer(each, _build(each)) for each in contributions.values()])
    try:
        yield broadcast
    except BaseException as error:
        broadcast.stopped(error)
        raise
    finally:
        broadcast.report_slow_observers()


class _Observer:
    """One observer, with the time it took."""

    def __init__(self, contribution: Contribution[ObserverSpec], call: Callable[[Event], None]) -> None:
        plugin = contribution.plugin
        self.label = f"{contribution.spec.name!r} of {plugin.distribution} {plugin.version}"
        self.call = call
        self.seconds = 0.0
        self.dropped = False


class _Broadcast:
    """A report function that calls observers as well."""

    def __init__(self, report: Report, observers: Sequence[_Observer]) -> None:
        self._report = report
        self._observers = observers
        self._began = time.perf_counter()
        self._running = False

    def __call__(self, event: Event) -> None:
        self._report(event)
        if isinstance(event, _NOT_FORWARDED):
            return
        if isinstance(event, (RunStarted, RunFinished)):
            self._running = isinstance(event, RunStarted)
        for observer in self._observers:
            if not observer.dropped:
                self._notify(observer, event)

    def stopped(self, error: BaseException) -> None:
        """Send RunStopped, unless the run had not started or had finished: writing its report may still fail then."""
        if self._running:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
            with finishing():  # an observer that closes a record elsewhere is given the time
                self(RunStopped(reason=reason))

    def report_slow_observers(self) -> None:
        """Report every observer that slowed the run down noticeably."""
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

    def _notify(self, observer: _Observer, event: Event) -> None:
        began = time.perf_counter()
        try:
            with prints_to_stderr(), _process_state_restored():
                # A copy for each: what an observer changes in an event reaches nobody else.
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


def _build(contribution: Contribution[ObserverSpec]) -> Callable[[Event], None]:
    plugin = contribution.plugin
    name, owner = contribution.spec.name, f"{plugin.distribution} {plugin.version}"
    try:
        with prints_to_stderr(), _process_state_restored():
            observer = contribution.spec.build()
    except (KeyboardInterrupt, Terminated):
        raise
    except (ImportError, ValueError, ZooError) as error:
        raise Refused(with_step(f"Observer {name!r} of {owner} cannot be used here: {error}", _WITHOUT)) from error
    except BaseException as error:
        raise Refused(f"Observer {name!r} of {owner} cannot be built: {one_line(error)}\nNext: {_WITHOUT}") from error
    if not callable(observer):
        raise Refused(
            f"Observer {name!r} of {owner} must be built as a function of an event, got {observer!r}.\nNext: {_WITHOUT}"
        )
    return observer


@contextlib.contextmanager
def _process_state_restored() -> Iterator[None]:
    """Restore afterwards what a run depends on in the process: random generators, and how torch computes.

    So a run has the same bytes with and without observers.
    """
    python, numpy_state, gradients = random.getstate(), np.random.get_state(), torch.is_grad_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
