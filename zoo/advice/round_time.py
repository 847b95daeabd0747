"""How long a candidate will take for the next round of a shortlist, from what it and the others took so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zoo.advice.candidate_backbones import CandidateBackbone
from zoo.advice.latency import Latency
from zoo.advice.ranking import Probe

_RATE = {"cpu": 50.0, "cuda": 2000.0}
"""Billions of multiply-adds a second that are assumed before anything was measured."""
_DOWNLOAD = 5e6
"""Bytes a second that are assumed before anything was downloaded."""


@dataclass(slots=True)
class CandidateState:
    """What a shortlist knows of a candidate so far."""

    candidate: CandidateBackbone
    latency: Latency | None = None
    probes: dict[int, Probe] = field(default_factory=dict)
    """By number of images."""
    images_per_second: float = 0.0
    """Of the features of the last round, computed or read."""
    computed: bool = False
    """Whether that is a rate of computing. Reading from the cache says nothing about the other candidates."""
    probe_seconds: float = 0.0
    """For an image, of the last probe."""
    out: str = ""
    """Why it goes no further; empty while it does."""
    beaten: bool = False
    """Whether that is because others are better, not because of time."""
    late: bool = False
    """Whether it is because of time."""
    slow: bool = False
    """Whether it is because of `--max-latency`."""

    @property
    def judged_on(self) -> int:
        """The most images that it was judged on."""
        return max(self.probes, default=0)


def expected_seconds(state: CandidateState, states: Sequence[CandidateState], size: int, kind: str) -> float:
    """Seconds that a candidate is expected to take for a round: download, features, probe.

    Args:
        state: The candidate.
        states: All of them; those that were measured stand in for one that was not.
        size: Images of the round. Those of the rounds before are in the cache.
        kind: Of the device, `cpu` or `cuda`.
    """
    left = size - state.judged_on
    probes = sorted(each.probe_seconds for each in states if each.probe_seconds)
    probe = size * (state.probe_seconds or (probes[len(probes) // 2] if probes else 0.0))
    if state.images_per_second:
        return left / state.images_per_second + probe
    gmacs = state.candidate.gmacs or 1.0
    known = sorted(each.images_per_second * (each.candidate.gmacs or 1.0) for each in states if each.computed)
    rate = known[len(known) // 2] if known else _RATE[kind]
    return left * gmacs / rate + probe + state.candidate.download_bytes / _DOWNLOAD


def fine_tuning_seconds(images: int, latency: Latency, *, epochs: int = 8) -> float:
    """Seconds that fine-tuning all of a backbone takes: a pass back is about twice a pass forth (arXiv:1410.0759).

    From the latency, which is measured in every shortlist: a rate of features would be that of reading them where they
    are in the cache, so that a second shortlist would allow itself less time than the first.
    """
    return 3 * epochs * images * latency.in_batch / 1000
