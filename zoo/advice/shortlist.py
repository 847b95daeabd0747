"""Compare backbones on a data set within a budget of time: probes on cached features, on ever more images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from zoo.advice.candidate_backbones import CandidateBackbone, LeftOut, Limits, find_candidates
from zoo.advice.features import ProbeFeatures, probe_features, similar_groups
from zoo.advice.latency import Latency, latency_of
from zoo.advice.ranking import Found, Probe, Shortlist, ranked
from zoo.advice.rounds import cannot_win, sample_order, sample_sizes
from zoo.data.dataset import Dataset
from zoo.errors import DataError, Offline, OptionError, Unreachable, ZooError, first_line
from zoo.events import Event, Note, Progress, Report
from zoo.model.model import ZooModel
from zoo.planning.request import Request
from zoo.planning.resolve import dataset_of
from zoo.probes.cross_validation import cross_validate
from zoo.probes.folds import make_folds
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.text import duration
from zoo.weights.offline import switched_off

LEAST_BUDGET, SHARE_OF_RUN = 60.0, 0.2
"""Where no budget is given: a fifth of the time that fine-tuning is estimated to take, at least a minute."""
_OVER = 1.1
"""How far beyond its budget a shortlist may compute before it is cut off in the middle of a candidate."""
_RATE = {"cpu": 50.0, "cuda": 2000.0}
"""Billions of multiply-adds a second that are assumed before anything was measured."""
_DOWNLOAD = 5e6
"""Bytes a second that are assumed before anything was downloaded."""
_MOST_OF_BUDGET = 0.25
"""A candidate that nobody named is not tried where its first round would take more of the budget than this."""
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


@dataclass(slots=True)
class _State:
    """What is known of a candidate so far."""

    candidate: CandidateBackbone
    latency: Latency | None = None
    probes: dict[int, Probe] = field(default_factory=dict)
    """By number of images."""
    images_per_second: float = 0.0
    plan: Plan | None = None
    out: str = ""
    """Why it goes no further; empty while it does."""
    beaten: bool = False
    """Whether that is because others are better, not because of time."""
    cut_off: bool = False
    """Whether the time was over in the middle of it."""


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
    dataset = dataset_of(request, registry, report)
    _refuse_small_classes(dataset)
    work = _Work(request, wanted, registry, report, dataset, began, [_State(each) for each in found.chosen])
    return work.run(found.left_out)


def _refuse_small_classes(dataset: Dataset) -> None:
    counts = dataset.counts()["train"]
    small = [name for name, count in zip(dataset.classes, counts, strict=True) if count < _FEW]
    if small:
        raise DataError(
            f"{small[0]} has {counts[dataset.classes.index(small[0])]} training image: of every class at least two are "
            "needed, one to fit a probe and one to judge it.\nNext: add images of it, or take the class out."
        )


class _Work:
    def __init__(
        self,
        request: Request,
        wanted: Wanted,
        registry: Registry,
        report: Report,
        dataset: Dataset,
        began: float,
        states: Sequence[_State],
    ) -> None:
        self._request = request
        self._wanted = wanted
        self._registry = registry
        self._report = report
        self._dataset = dataset
        self._began = began
        self._states = list(states)
        self._budget = wanted.budget or LEAST_BUDGET
        self._files = dataset.splits["train"]
        self._sizes = sample_sizes(len(self._files))
        whole = len(self._sizes) == 1  # in the order of a run, whose cache of features then serves as well
        labels = [file.label for file in self._files]
        self._order = list(range(len(labels))) if whole else sample_order(labels, request.seed)
        self._groups: dict[str, int] = {}
        self._fractions: tuple[int, int] = (0, 1)
        self._unreachable: set[str] = set()
        self._interrupted = False

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def run(self, left_out: Sequence[LeftOut]) -> Shortlist:
        try:
            for size in self._sizes:
                self._round(size)
        except KeyboardInterrupt:
            # Every state is whole at any moment; a candidate under way has no probe of this size.
            self._interrupted = True
            if not self._known:
                raise
        if not self._known:
            raise self._nothing_to_show(left_out)
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

    def _round(self, size: int) -> None:
        going = [state for state in self._states if not state.out]
        # The best so far first: where the time ends, those that matter are done.
        before = max((each for state in going for each in state.probes), default=0)
        going.sort(key=lambda state: -state.probes[before].accuracy.value if before in state.probes else 0.0)
        for number, state in enumerate(going):
            self._tell(number, len(going), size)
            if self._has_time(state, size):
                self._probe(state, size)
        self._tell(len(going), len(going), size)
        self._drop(size)

    def _tell(self, done: int, total: int, size: int) -> None:
        self._report(Progress(task=f"backbones on {size:,} images", done=done, total=total, unit="backbones"))

    def _has_time(self, state: _State, size: int) -> bool:
        """Whether the candidate is expected to be done within the budget.

        Of those that the user named, the first is always tried. Of those that nobody named none may take most of it.
        """
        expected = self._expected(state, size)
        named = bool(self._wanted.backbones)
        if self._seconds + expected > self._budget and (self._known or not named):
            left = max(0.0, self._budget - self._seconds)
            state.out = (
                f"no time: {size:,} images would take about {duration(expected)}, {duration(left)} of "
                f"{duration(self._budget)} were left"
            )
        elif not named and not state.probes and expected > _MOST_OF_BUDGET * self._budget:
            state.out = f"too slow for this budget: {size:,} images would take about {duration(expected)}"
        return not state.out

    @property
    def _known(self) -> bool:
        """Whether anything is known of any candidate."""
        return any(state.probes for state in self._states)

    def _expected(self, state: _State, size: int) -> float:
        """Seconds that a candidate is expected to take for a round."""
        left = size - max(state.probes, default=0)
        if state.images_per_second:
            return left / state.images_per_second
        gmacs = state.candidate.gmacs or 1.0
        rates = [each.images_per_second * (each.candidate.gmacs or 1.0) for each in self._states]
        known = sorted(rate for rate in rates if rate)
        kind = "cuda" if torch.cuda.is_available() and self._request.device != "cpu" else "cpu"
        rate = known[len(known) // 2] if known else _RATE[kind]
        return left * gmacs / rate + state.candidate.download_bytes / _DOWNLOAD

    def _probe(self, state: _State, size: int) -> None:
        """Compute features of the first `size` images and cross-validate a probe, or note why that cannot be."""
        candidate = state.candidate
        host = candidate.name.partition("/")[0] if candidate.download_bytes else ""
        if host in self._unreachable:
            state.out = f"its weights cannot be downloaded: nothing of {host} could be reached"
            return
        sample = self._order[:size]
        dataset = replace(self._dataset, splits={"train": tuple(self._files[index] for index in sample)})
        asked = replace(self._request, backbone=candidate.backbone, weights=candidate.weights)
        began = time.monotonic()
        try:
            found = probe_features(
                asked,
                self._registry,
                self._timed,
                splits=("train",),
                dataset=dataset,
                accept=self._accepting(state),
            )
        except _OutOfTime:
            state.cut_off = True
            state.out = f"the budget of {duration(self._budget)} was spent in the middle of it"
            return
        except _TooSlow as error:
            state.out = str(error)
            return
        except (Unreachable, Offline) as error:
            self._unreachable.add(host)
            state.out = first_line(error)
            return
        except DataError:
            raise  # it is the same for all
        except ZooError as error:
            state.out = first_line(error)
            return
        took = time.monotonic() - began
        state.images_per_second = (size - max(state.probes, default=0)) / max(took, 1e-3)
        state.probes[size] = self._fitted(found)
        self._stretch_budget(state)

    def _accepting(self, state: _State) -> Callable[[ZooModel, Plan], None]:
        def accept(model: ZooModel, plan: Plan) -> None:
            state.plan = plan
            if state.latency is None:
                state.latency = latency_of(model, plan)
            most = self._wanted.max_latency
            if most is not None and state.latency.alone > most:
                raise _TooSlow(f"{state.latency.alone:.1f} ms for an image, over --max-latency {most:g} ms")

        return accept

    def _timed(self, event: Event) -> None:
        """Pass an event on, unless the time is over; then leave the candidate. What was computed is in the cache."""
        if isinstance(event, Progress):
            if event.task.startswith("features"):
                self._fractions = (event.done, event.total or 1)
            # Without a budget of the user's the first candidate decides how much there is.
            if self._seconds > _OVER * self._budget and (self._known or self._wanted.budget is not None):
                raise _OutOfTime
        if not isinstance(event, Note) or event.loud:
            self._report(event)

    def _fitted(self, found: ProbeFeatures) -> Probe:
        groups = self._groups_of(found)
        folds = make_folds(found.targets.tolist(), groups, seed=self._request.seed)
        if not folds.count:
            raise DataError(
                "All images of a class are copies of one another, in every class, so none can judge a probe.\n"
                "Next: zoo data check lists the copies."
            )
        judged = cross_validate(found.features, found.targets, len(found.classes), folds)
        return Probe.of(judged, found.targets, [file.relative for file in found.files])

    def _groups_of(self, found: ProbeFeatures) -> list[int]:
        """Groups of near-duplicates. Every image is opened once for all candidates, when a round first has it."""
        if any(file.relative not in self._groups for file in found.files):
            numbers = similar_groups(found.files, self._report, workers=self._request.workers)
            self._groups = {file.relative: number for file, number in zip(found.files, numbers, strict=True)}
        return [self._groups[file.relative] for file in found.files]

    def _stretch_budget(self, state: _State) -> None:
        """Without a budget of the user's: allow a fifth of what fine-tuning with the first candidate would take."""
        if self._wanted.budget is None and sum(bool(each.probes) for each in self._states) == 1:
            self._budget = max(
                LEAST_BUDGET, SHARE_OF_RUN * estimated_seconds(len(self._files), state.images_per_second)
            )

    def _drop(self, size: int) -> None:
        if size == self._sizes[-1]:
            return
        right = {state.candidate.name: state.probes[size].right for state in self._states if size in state.probes}
        if not right:
            return
        by_name = {state.candidate.name: state for state in self._states}
        prior = max(right, key=lambda name: by_name[name].candidate.prior)
        for name, p in cannot_win(right, stays=prior).items():
            state = by_name[name]
            state.beaten = True
            state.out = f"cannot win: behind the best on {size:,} images, paired p = {p:.1g}"

    def _nothing_to_show(self, left_out: Sequence[LeftOut]) -> ZooError:
        stopped = [state for state in self._states if state.cut_off]
        if stopped:
            done, total = self._fractions
            need = self._seconds * total / done if done else 10 * self._seconds
            return OptionError(
                f"A budget of {duration(self._budget)} is too small for one candidate: {total:,} images with "
                f"{stopped[0].candidate.name} would take about {duration(need)} here.\n"
                f"Next: --budget {_rounded(1.5 * need)}, which also pays for comparing it with others."
            )
        reasons = [*left_out, *(LeftOut(state.candidate.name, state.out) for state in self._states)]
        listed = "\n".join(f"  {each.name}: {each.reason}" for each in reasons[:10])
        more = f"\n  and {len(reasons) - 10:,} more" if len(reasons) > 10 else ""
        slow = self._wanted.max_latency is not None and any(state.latency for state in self._states)
        if slow:
            fastest = min((state.latency.alone, state.candidate.name) for state in self._states if state.latency)
            step = f"--max-latency {fastest[0] * 1.05:.1f}ms, which {fastest[1]} keeps here."
        else:
            step = "other candidates, --backbones A,B; or import weights: zoo weights import FOLDER"
        return OptionError(f"No candidate could be compared:\n{listed}{more}\nNext: {step}")


def estimated_seconds(images: int, images_per_second: float, *, epochs: int = 8) -> float:
    """Seconds that fine-tuning all of a backbone takes: a pass back is about twice a pass forth (arXiv:1410.0759)."""
    return 3 * epochs * images / max(images_per_second, 1e-6)


def _rounded(seconds: float) -> str:
    return f"{-(-int(seconds + 1) // 10) * 10}s" if seconds < 300 else f"{-(-int(seconds + 1) // 60)}m"
