"""A sweep from beginning to end: lay out, divide, carry out, choose, judge. Resuming shares all but the beginning."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zoo.cluster.connect import connected
from zoo.cluster.place import parse_place
from zoo.data.dataset import Dataset, ImageFile
from zoo.errors import CheckFailed, OptionError, RunError, ZooError
from zoo.events import Event, Note, Progress, Report
from zoo.planning.versions import versions
from zoo.process import finishing, use_threads
from zoo.registry.registry import Registry
from zoo.specs.data import Split
from zoo.sweeping.checked_trials import CheckedTrial, check_trials, trials_of
from zoo.sweeping.division import (
    DATA,
    Division,
    divide,
    known_before,
    location,
    read_tables,
    refuse_changed,
    write_contents,
    write_tables,
)
from zoo.sweeping.kept_features import TrialScores, kept_features
from zoo.sweeping.knobs import as_over
from zoo.sweeping.known_weights import with_known_weights
from zoo.sweeping.local_workers import LocalWorkers, default_at_once
from zoo.sweeping.ray_workers import RayWorkers
from zoo.sweeping.run_queue import Workers, carry_out_jobs
from zoo.sweeping.settings import SweepSettings, refuse_changed_files, refuse_other_sweep, stored_settings
from zoo.sweeping.sweep_folder import SweepFolder, TrialRow, refuse_unusable_out, stored_content
from zoo.sweeping.sweep_record import Sweep, put_together
from zoo.sweeping.trial_runs import RunOutcome, job_of
from zoo.sweeping.winner import conclude, refuse_without_winner
from zoo.text import counted, shell_word

LOCAL = "local"
_OF_AN_OLDER_ZOO = (
    "Candidates are compared by plain accuracy, in which large classes count more: trials that an older zoo carried "
    "out have no scores with every class counting the same.\nNext: to compare them by these, start the sweep again "
    "with another --out."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HowToRun:
    """How trials are carried out, which their settings do not depend on."""

    on: str = LOCAL
    """`local`, `ray`, or the address of a cluster."""
    at_once: int | None = None
    """Runs that are trained at once. None: one for each two cores, or a graphics card."""


def start(settings: SweepSettings, registry: Registry, report: Report, how: HowToRun, *, out: Path | None) -> Sweep:
    """Carry out a sweep.

    Args:
        settings: What is asked for.
        registry: Where names are looked up.
        report: Called with Progress and Note.
        how: Where trials run.
        out: The folder. None: a new one under `sweeps/`.

    Raises:
        Refused: Something cannot be done as asked; no trial ran.
        DataError: The images cannot be used, or divided.
        RunError: The folder cannot be written, or no trial succeeded.
        CheckFailed: The winner, trained as a run, does not have the scores of its trial.
    """
    refuse_unusable_out(out)
    _refuse_bad(how)
    trials = trials_of(settings, registry)
    with _place(how, settings, report) as make_workers:
        division = divide(Path(settings.data).expanduser(), registry, report, seed=settings.seed)
        # Before anything is written: a trial that cannot run is refused with nothing to clean up.
        checked = check_trials(trials, settings, settings.data, _as_dataset(division, settings), registry, report)
        content = stored_content(
            settings,
            division.record(),
            digest="",  # still to come: `go_on` refuses a folder without it
            threads=torch.get_num_threads(),
            versions=versions(),
        )
        folder = SweepFolder.create(out, content)
        with _removed_where_stopped(folder):
            write_tables(division, folder.path)
            # As resuming reads them, so that both train on the same.
            datasets = read_tables(folder.path, division.classes, registry, report)
            content["data_digest"] = write_contents(folder.path, datasets, report)
            if copies := known_before(folder.path, *datasets):
                division = content["division"]
                content["division"] = {**division, "judged_by": f"{division['judged_by']} ({copies})"}
                text = f"The winner is judged on images that it has seen: {copies}.\nNext: zoo data check lists them."
                report(Note(text=text, loud=True))
            content["division"] = with_known_weights(content["division"], checked, datasets, registry, report)
            folder.write_settings(content)
        report(Note(text=f"Sweep folder: {folder.path}\nIf it is stopped: {_resuming(folder)}"))
        return _carry_out(folder, settings, content, datasets[0], registry, report, make_workers)


def go_on(
    path: Path, registry: Registry, report: Report, how: HowToRun, *, asked: SweepSettings | None, offline: bool
) -> Sweep:
    """Resume a sweep: trials that have ended stay as they are, runs that were stopped go on from their checkpoints.

    `asked`: the settings that were given beside the folder, which must be those of the sweep; None: none were.

    Raises:
        Refused: The sweep is finished, or another one.
        DataError: The images have changed.
        RunError: `path` is no sweep's folder, or another process works on it.
    """
    settings, content = stored_settings(path)
    settings = replace(settings, offline=offline)  # a matter of this moment, not of the sweep
    folder = SweepFolder(path)
    folder.refuse_finished()
    if asked is not None:
        refuse_other_sweep(path, settings, asked)
    _refuse_bad(how)
    if not content["data_digest"]:
        raise RunError(
            f"The images of {path} are not divided: it was killed before, or is being started by another process.\n"
            "Next: wait for that process; or remove the folder, and start the sweep again."
        )
    folder.refuse_moved()
    refuse_changed_files(path, settings, content["files"])
    _tell_other_versions(content["versions"], report)
    use_threads(content["threads"])
    with _place(how, settings, report) as make_workers:
        datasets = read_tables(path, content["division"]["classes"], registry, report)
        refuse_changed(path, datasets, content["data_digest"], report)
        return _carry_out(folder, settings, content, datasets[0], registry, report, make_workers)


def _carry_out(
    folder: SweepFolder,
    settings: SweepSettings,
    content: dict[str, Any],
    dataset: Dataset,
    registry: Registry,
    report: Report,
    make_workers: Callable[[str], Workers],
) -> Sweep:
    began = time.monotonic()
    with folder.lock():
        # Again, for nothing was locked when `go_on` looked: another process may have finished it since.
        folder.refuse_finished()
        laid_out = trials_of(settings, registry)
        trials = check_trials(laid_out, settings, location(folder.path, DATA), dataset, registry, report)
        _tell_unlike_choices(trials, report)
        work = _SweepWork(folder, settings, dataset, registry, report, trials)
        with work.told_how_to_resume():
            # First what takes a second each, and shows soon whether the sweep makes sense.
            work.on_features()
            work.as_runs(make_workers)
        undrawn = frozenset(each.trial.candidate for each in trials if not each.draws)
        candidates = put_together(list(work.rows.values()), undrawn)
        refuse_without_winner(folder, candidates)
        if all(each.balanced for each in trials) and not candidates[0].balanced:
            report(Note(text=_OF_AN_OLDER_ZOO, loud=True))
        with work.told_how_to_resume():
            found = conclude(
                folder,
                settings,
                content["division"],
                candidates,
                {each.trial.number: each for each in trials},
                registry,
                _quieted(report),
                seconds=time.monotonic() - began,
            )
    folder.remove_lock()
    return found


class _SweepWork:
    """The trials of a sweep, and the rows of those that have ended."""

    def __init__(
        self,
        folder: SweepFolder,
        settings: SweepSettings,
        dataset: Dataset,
        registry: Registry,
        report: Report,
        trials: Sequence[CheckedTrial],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._dataset = dataset
        self._registry = registry
        self._report = report
        self._trials = trials
        self.rows = folder.rows([each.trial for each in trials])

    @contextmanager
    def told_how_to_resume(self) -> Iterator[None]:
        """Whatever stops the sweep, say what is kept and how to go on."""
        try:
            yield
        except CheckFailed:
            raise  # it would fail again
        except (KeyboardInterrupt, SystemExit, ZooError):
            kept = f"{len(self.rows)} of {counted(len(self._trials), 'trial')} are kept in {self._folder.path}."
            self._report(Note(text=f"{kept}\nTo resume: {_resuming(self._folder)}", loud=True, parting=True))
            raise

    def on_features(self) -> None:
        """Carry out the trials that train on kept features, those with the same features together."""
        groups: dict[Hashable, list[CheckedTrial]] = {}
        for each in self._left():
            if each.features is not None:
                groups.setdefault(each.features, []).append(each)
        for own in groups.values():
            with kept_features(own[0].request, self._registry, _quieted(self._report), self._dataset) as kept:
                for each in own:
                    found = kept.run(each.request)
                    self._ended(each, found)

    def as_runs(self, make_workers: Callable[[str], Workers]) -> None:
        """Carry out the other trials, each as a run in a worker of its own."""
        left = {each.trial.number: each for each in self._left()}
        if not left:
            return
        jobs = [
            job_of(number, each.request, self._folder.run_of(each.trial), threads=1) for number, each in left.items()
        ]

        def ended(number: int, outcome: RunOutcome, retries: int) -> None:
            self._ended(left[number], outcome, retries=retries, run=self._folder.run_of(left[number].trial))

        self._tell()
        carry_out_jobs(jobs, make_workers(_resuming(self._folder)), ended, self._report)

    def _left(self) -> list[CheckedTrial]:
        return [each for each in self._trials if each.trial.number not in self.rows]

    def _ended(
        self, each: CheckedTrial, found: TrialScores | RunOutcome, *, retries: int = 0, run: Path | None = None
    ) -> None:
        trial = each.trial
        row = TrialRow(
            trial=trial.number,
            candidate=trial.candidate,
            seed=trial.seed,
            settings=dict(trial.settings),
            status="failed" if found.fault else "done",
            val=found.val,
            kept=found.kept,
            seconds=round(found.seconds, 3),
            run=None if run is None else run.relative_to(self._folder.path).as_posix(),
            retries=retries,
            fault=as_over(found.fault),
            feature_seconds=round(found.feature_seconds, 3) if isinstance(found, TrialScores) else 0.0,
        )
        self._folder.write_row(row)
        self.rows[trial.number] = row
        self._tell()

    def _tell(self) -> None:
        self._report(Progress(task="trials", done=len(self.rows), total=len(self._trials), unit="trials"))


def _tell_other_versions(then: Mapping[str, str], report: Report) -> None:
    now = versions()
    changed = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
    if changed:
        text = (
            f"This sweep began with other versions: {'; '.join(changed)}. Trials before and after may differ by that."
        )
        report(Note(text=text, loud=True))


def _tell_unlike_choices(trials: Sequence[CheckedTrial], report: Report) -> None:
    """Say where candidates cannot be compared as trials ask for, because not all ask for the same."""
    balanced = sum(each.balanced for each in trials)
    if 0 < balanced < len(trials):
        text = (
            f"In {balanced:,} of {counted(len(trials), 'trial')} choose_by lets every class count the same, in the "
            "others large classes count more. So candidates are compared by plain accuracy.\n"
            "Next: to compare them as if every class had equally many images, one kind of choose_by for all: "
            "--over choose_by=balanced_loss."
        )
        report(Note(text=text, loud=True))


def _as_dataset(division: Division, settings: SweepSettings) -> Dataset:
    """The images that trials are trained on, before their table is written."""
    splits: dict[Split, tuple[ImageFile, ...]] = {"train": division.train, "val": division.val}
    return Dataset(source=settings.data, folder=Path(settings.data), classes=division.classes, splits=splits)


def _refuse_bad(how: HowToRun) -> None:
    if how.at_once is not None and how.at_once < 1:
        raise OptionError(
            f"--at-once must be at least 1, got {how.at_once}.\n"
            "Next: leave --at-once out, for as many as there is room for."
        )
    parse_place(how.on)


@contextmanager
def _removed_where_stopped(folder: SweepFolder) -> Iterator[None]:
    """Remove a folder that was just made where its images are not divided to the end: no trial could go on in it."""
    try:
        yield
    except BaseException:
        with finishing():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def _place(how: HowToRun, settings: SweepSettings, report: Report) -> Iterator[Callable[[str], Workers]]:
    """Where runs are trained -> what makes the workers, given the command that goes on with the sweep.

    A cluster is reached before anything else takes time.
    """
    place = parse_place(how.on)
    with ExitStack() as stack:
        cluster = stack.enter_context(connected(place, report)) if place.kind == "cluster" else None

        def make(resuming: str) -> Workers:
            if not place.uses_ray:
                return LocalWorkers(how.at_once or default_at_once(settings.device), settings.device)
            # A Ray of this machine is started only where a trial needs it.
            reached = cluster or stack.enter_context(connected(place, report))
            return RayWorkers(reached, how.at_once, settings.device, resuming=resuming, report=report)

        yield make


def _quieted(report: Report) -> Report:
    """Pass on how far a trial is and what is loud. A trial is no run that observers follow."""

    def told(event: Event) -> None:
        if isinstance(event, Progress) or (isinstance(event, Note) and event.loud and not event.parting):
            report(event)

    return told


def _resuming(folder: SweepFolder) -> str:
    return f"zoo sweep --resume {shell_word(folder.path)}"
