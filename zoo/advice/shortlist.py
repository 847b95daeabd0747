"""Compare backbones on a data set within a budget of time: probes on cached features, on ever more images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from zoo.advice.candidate_backbones import CandidateBackbone, LeftOut, Limits, find_candidates, grouped
from zoo.advice.features import ProbeFeatures, compared_hashes, probe_features
from zoo.advice.latency import latency_of
from zoo.advice.ranking import Found, Probe, Shortlist, in_common, ranked
from zoo.advice.round_time import CandidateState, expected_seconds, fine_tuning_seconds
from zoo.advice.rounds import cannot_win, sample_order, sample_sizes
from zoo.advice.seen_labels import SeenLabels
from zoo.data.check.similar import Looks, joined_groups, looks_of
from zoo.data.dataset import Dataset, labels_of
from zoo.errors import DataError, Offline, OptionError, Unreachable, ZooError, first_line
from zoo.events import Event, Note, Progress, Report
from zoo.model.model import ZooModel
from zoo.planning.request import Request
from zoo.planning.resolve import dataset_of
from zoo.probes.cross_validation import cross_validate
from zoo.probes.folds import Folds, make_folds
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.text import counted, duration, some
from zoo.training.trained_backbone import trainings_of_weights
from zoo.training.trained_before import weights_file
from zoo.weights.offline import switched_off

LEAST_BUDGET, SHARE_OF_RUN = 60.0, 0.2
"""Where no budget is given: a fifth of the time that fine-tuning is estimated to take, at least a minute."""
_OVER = 1.1
"""How far beyond its budget a shortlist may compute before it is cut off in the middle of a candidate."""
_MOST = 0.25
"""A candidate that nobody named is not tried where its first round would take a larger share of the budget."""
_FEW = 2


class _OutOfTime(Exception):
    """The budget is spent, in the middle of a candidate."""


class _TooSlow(Exception):
    """The candidate takes longer for an image than was allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a shortlist is asked for, beside the data."""

    backbones: tuple[str, ...] = ()
    """`NAME`, `NAME=FILE`, `NAME=random` or patterns; empty: what is here and can be fetched."""
    budget: float | None = None
    """Seconds. None: `SHARE_OF_RUN` of a run, at least `LEAST_BUDGET`."""
    limits: Limits = field(default_factory=Limits)
    max_latency: float | None = None
    """Milliseconds for one image, alone."""
    most_images: int | None = None
    """Training images that are compared on, drawn by the seed; of many classes ten a class at least. None: all."""
    val_needed: bool = False
    """Whether val must have every class: a run that follows would refuse the data after all the work."""


def make_shortlist(request: Request, wanted: Wanted, registry: Registry, report: Report) -> Shortlist:
    """Rank backbones by the accuracy of a cross-validated linear probe on the training images.

    The images of val and test are not looked at, so that what a run is judged by afterwards chose nothing.

    Args:
        request: The data and how to compute; its backbone is not used.
        wanted: Which candidates, and within which limits.
        registry: Where names are looked up.
        report: Called with every event.

    Raises:
        OptionError: Limits that leave nothing, or a budget that is too small for a single candidate.
        UnknownName, WeightsError, DataError: As `find_candidates` and reading the data raise them.
    """
    began = time.monotonic()
    offline = switched_off(request.offline, hub=False) is not None
    found = find_candidates(registry, wanted.backbones, wanted.limits, offline=offline)
    dataset = dataset_of(request, registry, report, val_needed=wanted.val_needed)
    _refuse_small_classes(dataset)
    clean, knowing, notes = _apart(found.chosen, request, dataset, registry)
    for note in notes:
        report(Note(text=note, loud=True))
    dataset = replace(dataset, notes=(*dataset.notes, *notes))
    work = _Work(request, wanted, registry, report, dataset, began, [CandidateState(each) for each in clean])
    return work.run([*found.left_out, *knowing])


def _apart(
    candidates: Sequence[CandidateBackbone], request: Request, dataset: Dataset, registry: Registry
) -> tuple[list[CandidateBackbone], list[LeftOut], list[str]]:
    """The candidates that can be compared; those that a run trained on these images; and what is not known of others.

    Features that know the labels would win, however little they say of new images.
    """
    clean, knowing, notes, seen = list[CandidateBackbone](), list[LeftOut](), list[str](), SeenLabels(registry)
    for each in candidates:
        file = weights_file(replace(request, backbone=each.backbone, weights=each.weights), registry)
        trainings = trainings_of_weights(file) if file is not None else ()
        found = seen.among(trainings, dataset.splits["train"])
        if found.refusal:
            knowing.append(LeftOut(each.name, found.refusal))
            continue
        clean.append(each)
        notes += [f"{each.name}: {note}" for note in (found.chosen, found.perhaps) if note]
    return clean, knowing, notes


def _refuse_small_classes(dataset: Dataset) -> None:
    small = [name for name, count in zip(dataset.classes, dataset.counts()["train"], strict=True) if count < _FEW]
    if small:
        have = f"{small[0]} has" if len(small) == 1 else f"{len(small):,} classes ({some(small)}) have"
        raise DataError(
            f"{have} 1 training image: of every class at least two are needed, one to fit a probe and one to judge "
            "it.\nNext: add images, or take such classes out."
        )


class _Work:  # one shortlist, from the first round to the ranking
    def __init__(
        self,
        request: Request,
        wanted: Wanted,
        registry: Registry,
        report: Report,
        dataset: Dataset,
        began: float,
        states: Sequence[CandidateState],
    ) -> None:
        self._request = request
        self._wanted = wanted
        self._registry = registry
        self._report = report
        self._dataset = dataset
        self._began = began
        self._states = list(states)
        self._budget = wanted.budget or LEAST_BUDGET  # without one, raised when the first candidate has shown its speed
        self._files = dataset.splits["train"]
        self._sizes = sample_sizes(len(self._files), len(dataset.classes), wanted.most_images)
        every = list(range(len(self._files)))  # in the order of a run, whose cache of features then serves as well
        drawn = self._sizes != [len(every)]
        self._order = sample_order(list(labels_of(self._files)), request.seed) if drawn else every
        self._looks: dict[str, Looks] = {}
        self._features_done: tuple[int, int] = (0, 1)  # tells what a candidate that was cut off would have needed
        self._computing = False  # whether the candidate under way has computed features, not only read them
        self._unreachable: set[str] = set()  # providers: each is waited for once, not once for every candidate
        self._interrupted = False
        self._unjudged: set[str] = set()  # classes of which it was said that no image judges a probe

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def _known(self) -> bool:
        """Whether anything is known of any candidate."""
        return any(state.probes for state in self._states)

    def run(self, left_out: Sequence[LeftOut]) -> Shortlist:
        """Carry out the rounds, as far as time goes."""
        try:
            for size in self._sizes:
                if not self._round(size):
                    break
        except KeyboardInterrupt:
            # Every state is whole at any moment; a candidate under way has no probe of this size.
            self._interrupted = True
            if not self._known:
                raise
        if not self._known:
            raise self._nothing_to_show(left_out)
        for state in self._states:
            if not state.out and state.judged_on < self._sizes[-1]:
                state.out = "interrupted" if self._interrupted else "the best of the round before went no further"
        return ranked(
            [
                Found(state.candidate, state.latency, state.probes, out=state.out, beaten=state.beaten)
                for state in self._states
                if state.probes
            ],
            left_out=[
                *left_out,
                *(LeftOut(state.candidate.name, state.out) for state in self._states if not state.probes),
            ],
            request=self._request,
            dataset=self._dataset,
            head=self._wanted.limits.head,
            budget=self._budget,
            seconds=self._seconds,
            interrupted=self._interrupted,
        )

    def _round(self, size: int) -> bool:
        """Judge all that are left on the first `size` images -> whether another round makes sense."""
        going = self._in_order([state for state in self._states if not state.out])
        best = going[0] if going and going[0].probes else None
        for number, state in enumerate(going):
            self._tell(number, len(going), size)
            if self._has_time(state, size):
                self._probe(state, size)
            if state is best and size not in best.probes:
                return False  # the others would be compared with one another, and not with the best
        self._tell(len(going), len(going), size)
        self._drop(size)
        return any(size in state.probes for state in going)

    def _in_order(self, going: list[CandidateState]) -> list[CandidateState]:
        """The best so far first: where the time ends, those that matter are done. At first in the order of the prior.

        Where nobody named a candidate, the quickest of those on this machine comes first: it shows how fast this
        machine is, and how much time there is.
        """
        if before := max((state.judged_on for state in going), default=0):
            return sorted(going, key=lambda each: -each.probes[before].accuracy.value if before in each.probes else 0)
        if self._wanted.backbones or not going:
            return going
        here = [state for state in going if state.candidate.here] or going
        scout = min(here, key=lambda state: self._expected(state, self._sizes[0]))
        return [scout, *(state for state in going if state is not scout)]

    def _tell(self, done: int, total: int, size: int) -> None:
        self._report(Progress(task=f"backbones on {size:,} images", done=done, total=total, unit="backbones"))

    def _has_time(self, state: CandidateState, size: int) -> bool:
        """Whether the candidate is expected to be done within the budget.

        The first one is always tried. Of those that nobody named none may take most of the time.
        """
        expected = self._expected(state, size)
        left = max(0.0, self._budget - self._seconds)
        first = not self._known and not any(each.late for each in self._states)
        if expected > left and not first:
            state.late = True
            state.out = (
                f"no time: {size:,} images would take about {duration(expected)}, {duration(left)} of "
                f"{duration(self._budget)} were left"
            )
        elif not self._wanted.backbones and self._known and not state.probes and expected > _MOST * self._budget:
            state.late = True
            state.out = f"too slow for this budget: {size:,} images would take about {duration(expected)}"
        return not state.out

    def _expected(self, state: CandidateState, size: int) -> float:
        kind = "cuda" if torch.cuda.is_available() and self._request.device != "cpu" else "cpu"
        return expected_seconds(state, self._states, size, kind)

    def _probe(self, state: CandidateState, size: int) -> None:
        """Compute features of the first `size` images and cross-validate a probe, or note why that cannot be."""
        provider = "" if state.candidate.here else state.candidate.name.partition("/")[0]
        if provider in self._unreachable:
            state.out = f"its weights cannot be downloaded: nothing of {provider} could be reached"
            return
        try:
            self._judge(state, size)
        except _OutOfTime:
            state.late = True
            state.out = f"the budget of {duration(self._budget)} was spent in the middle of it"
        except _TooSlow as error:
            state.slow, state.out = True, str(error)
        except (Unreachable, Offline) as error:
            if provider:
                self._unreachable.add(provider)
            state.out = first_line(error)
        except DataError as error:
            if not self._known:
                raise  # it is the same for all
            state.out = first_line(error)
        except ZooError as error:
            state.out = first_line(error)
        except Exception as error:
            # A provider's code may raise anything; the others are compared all the same.
            state.out = f"{type(error).__name__}: {first_line(error)}"

    def _judge(self, state: CandidateState, size: int) -> None:
        sample = self._order[:size]
        dataset = replace(self._dataset, splits={"train": tuple(self._files[index] for index in sample)})
        candidate, self._computing = state.candidate, False
        asked = replace(self._request, backbone=candidate.backbone, weights=candidate.weights)
        found = probe_features(
            asked, self._registry, self._timed, splits=("train",), dataset=dataset, accept=self._accepting(state)
        )
        groups = self._groups_of(found)
        # Of the images that are new in this round: the others were cached. Its download and its model cost once.
        state.images_per_second = (size - state.judged_on) / max(found.seconds["features"], 1e-3)
        state.computed = self._computing
        began = time.monotonic()
        probe = self._fitted(found, groups)
        state.probe_seconds = (time.monotonic() - began) / size
        state.probes[size] = probe
        self._stretch_budget(state)

    def _accepting(self, state: CandidateState) -> Callable[[ZooModel, Plan], None]:
        def accept(model: ZooModel, plan: Plan) -> None:
            if state.latency is None:  # in the first round alone
                state.latency = latency_of(model, plan)
            most = self._wanted.max_latency
            if most is not None and state.latency.alone > most:
                raise _TooSlow(f"{state.latency.alone:.1f} ms for an image, over --max-latency {most:g} ms")

        return accept

    def _timed(self, event: Event) -> None:
        """Pass an event on, unless the time is over; then leave the candidate. What was computed is in the cache."""
        if isinstance(event, Progress):
            if event.task.startswith("features"):
                self._features_done, self._computing = (event.done, event.total or 1), True
            # Without a budget of the user's the first candidate decides how much there is.
            if self._seconds > _OVER * self._budget and (self._known or self._wanted.budget is not None):
                raise _OutOfTime
        if not isinstance(event, Note) or event.loud:
            self._report(event)

    def _fitted(self, found: ProbeFeatures, groups: Sequence[int]) -> Probe:
        folds = make_folds(found.targets.tolist(), groups, seed=self._request.seed)
        if not folds.count:
            raise DataError(
                "All images of a class are copies of one another, in every class, so none can judge a probe.\n"
                "Next: zoo data check lists the copies."
            )
        self._tell_alone(found, folds)

        def progress(done: int, total: int) -> None:
            self._timed(Progress(task="probe", done=done, total=total, unit="strengths"))

        judged = cross_validate(found.features, found.targets, len(found.classes), folds, progress=progress)
        return Probe.of(judged, found.targets, [file.relative for file in found.files], self._pixels_of(found))

    def _tell_alone(self, found: ProbeFeatures, folds: Folds) -> None:
        """Say once, not for each candidate, of which classes no image is ever held out."""
        alone = [found.classes[label] for label in folds.alone if found.classes[label] not in self._unjudged]
        self._unjudged.update(alone)
        if alone:
            text = f"The images of {some(alone)} are copies of one another or nearly so, and judge no probe."
            self._report(Note(text=f"{text}\nNext: zoo data check lists the copies.", loud=True))

    def _groups_of(self, found: ProbeFeatures) -> Sequence[int]:
        """Groups of near-duplicates. Every image is opened once for all candidates and rounds."""
        new = [file for file in found.files if file.relative not in self._looks]
        looks = looks_of(
            new,
            workers=self._request.workers,
            progress=lambda done, total: self._timed(Progress(task="compare images", done=done, total=total)),
        )
        self._looks |= {file.relative: each for file, each in zip(new, looks, strict=True)}
        hashes = [self._looks[file.relative].hash for file in found.files]
        return joined_groups(self._pixels_of(found), hashes, lambda *counts: self._timed(compared_hashes(*counts)))

    def _pixels_of(self, found: ProbeFeatures) -> list[str]:
        return [self._looks[file.relative].pixels for file in found.files]

    def _stretch_budget(self, state: CandidateState) -> None:
        """Without a budget of the user's: allow a fifth of what fine-tuning with the first candidate would take."""
        first = sum(bool(each.probes) for each in self._states) == 1
        if self._wanted.budget is None and first and state.latency is not None:
            run = fine_tuning_seconds(len(self._files), state.latency)
            self._budget = max(LEAST_BUDGET, SHARE_OF_RUN * run)

    def _drop(self, size: int) -> None:
        """Let those go that cannot win any more, by the images that all could read."""
        by_name = {state.candidate.name: state for state in self._states if size in state.probes}
        if size == self._sizes[-1] or not by_name:
            return  # after the last round there is no work left that dropping could save
        right, copies = in_common({name: state.probes[size] for name, state in by_name.items()})
        prior = max(right, key=lambda name: by_name[name].candidate.prior)
        for name, p in cannot_win(right, stays=prior, copies=copies).items():
            by_name[name].beaten = True
            by_name[name].out = f"cannot win: behind the best on {size:,} images, paired p = {p:.1g}"

    def _nothing_to_show(self, left_out: Sequence[LeftOut]) -> ZooError:
        late = [state for state in self._states if state.late]
        if late:
            done, total = self._features_done
            need = self._seconds * total / done if done else max(self._seconds, self._expected(late[0], self._sizes[0]))
            return OptionError(
                f"A budget of {duration(self._budget)} is too small for one candidate: "
                f"{counted(min(self._sizes[0], len(self._files)), 'image')} with "
                f"{late[0].candidate.name} would take about {duration(need)} here.\n"
                f"Next: --budget {_rounded(1.5 * need)}, which also pays for comparing it with others."
            )
        reasons = [*left_out, *(LeftOut(each.candidate.name, each.out) for each in self._states)]
        listed = "\n".join(f"  {each.name}: {each.reason}" for each in reasons[:10])
        more = f"\n  and {len(reasons) - 10:,} more; of all: {grouped(reasons)}" if len(reasons) > 10 else ""
        slow = [(state.latency.alone, state.candidate.name) for state in self._states if state.slow and state.latency]
        if slow:
            fastest = min(slow)
            step = f"--max-latency {fastest[0] * 1.05:.1f}ms, which {fastest[1]} keeps here."
        else:
            step = "import weights (zoo weights import FOLDER), or name candidates: zoo shortlist --backbones NAME=FILE"
        return OptionError(f"No candidate could be compared:\n{listed}{more}\nNext: {step}")


def _rounded(seconds: float) -> str:
    return f"{-(-int(seconds + 1) // 10) * 10}s" if seconds < 300 else f"{-(-int(seconds + 1) // 60)}m"
