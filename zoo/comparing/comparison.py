"""What a comparison holds: for people, for the page and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.comparing.differences import Differences, value_of
from zoo.comparing.pairing import SPLITS
from zoo.comparing.significance import ALPHA, Interval, Outcomes
from zoo.evaluation.intervals import Share
from zoo.reporting.record import RunRecord

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A run on all images of one split."""

    images: int
    accuracy: Share
    """Top-1, with its 95 % Wilson interval."""
    macro_f1: float
    loss: float | None
    """Mean cross-entropy in nats; None where it was not finite."""
    calibration_error: float | None
    """0 to 1; None for a run by a zoo that noted none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One of the runs."""

    letter: str
    """`A` for the first."""
    name: str
    """Of its folder, with as much of the path as tells it from the others."""
    record: RunRecord
    scores: dict[str, Scored]
    """By split, `test` first."""

    @property
    def kept(self) -> str:
        """The stage that the run ended with."""
        return str(self.record.result["selection"]["kept"])

    @property
    def candidates(self) -> int:
        """Stages among which it was chosen on the validation images."""
        chosen = self.record.result["selection"]
        return int(chosen["candidates"]) if chosen["on"] == "val accuracy" else 1

    @property
    def parameters_trained(self) -> int:
        """Most that could change in a stage, up to the kept one."""
        stages = self.record.result["stages"]
        names = [stage["name"] for stage in stages]
        until = names.index(self.kept) + 1 if self.kept in names else len(names)
        return max(int(stage["trainable_parameters"]) for stage in stages[:until])

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return float(self.record.result["seconds"]["total"])

    @property
    def proof(self) -> str:
        """`passed` or `failed`."""
        return str(self.record.result["proof"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """Two runs on the images that both judged in one split."""

    split: str
    outcomes: Outcomes
    accuracy: tuple[float, float]
    """Of the first run and of this one, on these images, 0 to 1."""
    interval: Interval
    """Of the difference, 95 %, paired bootstrap."""
    p: float
    """Exact McNemar test, two-sided."""
    p_adjusted: float
    """By Holm for as many comparisons as there are; `p` where there is one."""
    smallest_shown: float | None
    """Difference that would have had a p-value below 0.05, divided by the number of comparisons; None where these
    images cannot show any."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance explains, at 0.05."""
        return self.p_adjusted < ALPHA

    def to_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "images": self.outcomes.images,
            "accuracy": list(self.accuracy),
            "difference": self.outcomes.difference,
            **asdict(self.outcomes),
            "interval": asdict(self.interval),
            "mcnemar_p": self.p,
            "holm_p": self.p_adjusted,
            "significant": self.significant,
            "smallest_shown": self.smallest_shown,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """One run against the first."""

    first: Compared
    run: Compared
    differences: Differences
    tested: tuple[Tested, ...]
    """One for each split of which both judged images, `test` first."""
    same_images: bool
    """Whether the two judged the same images, so that their own metrics are of the same images too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two finished runs or more, compared with the first of them."""

    runs: tuple[Compared, ...]
    against: tuple[Against, ...]
    """One for every run but the first."""
    conclusions: tuple[tuple[str, ...], ...]
    """For each of `against`, sentences: what may be concluded, and what may not."""
    cautions: tuple[str, ...]
    """Sentences that hold for all of them."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of which some run has metrics, `test` first."""
        return tuple(split for split in SPLITS if any(split in run.scores for run in self.runs))

    @property
    def choices(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, value in each run) of every choice that differs somewhere."""
        return self._rows([name for each in self.against for name in each.differences.choices])

    @property
    def surroundings(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The same for device, threads and versions."""
        return self._rows([name for each in self.against for name in each.differences.surroundings])

    @property
    def follows(self) -> tuple[str, ...]:
        """What differs because of a choice or the seed."""
        return tuple(dict.fromkeys(name for each in self.against for name in each.differences.follows))

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Of each run; None where all have the same."""
        seeds = tuple(run.record.plan.seed for run in self.runs)
        return seeds if len(set(seeds)) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "format": FORMAT,
            "runs": [_run(run) for run in self.runs],
            "differences": {
                "choices": _named(self.choices),
                "seeds": list(self.seeds) if self.seeds else None,
                "follows": list(self.follows),
                "surroundings": _named(self.surroundings),
            },
            "comparisons": [
                {
                    "run": each.run.letter,
                    "against": each.first.letter,
                    "choices": list(each.differences.choices),
                    "seed_differs": each.differences.seed,
                    "same_images": each.same_images,
                    "tested": [tested.to_dict() for tested in each.tested],
                    "conclusion": list(sentences),
                }
                for each, sentences in zip(self.against, self.conclusions, strict=True)
            ],
            "cautions": list(self.cautions),
        }

    def _rows(self, names: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        plans = [run.record.plan for run in self.runs]
        return tuple((name, tuple(value_of(plan, name) for plan in plans)) for name in dict.fromkeys(names))


def _run(run: Compared) -> dict[str, Any]:
    plan = run.record.plan
    return {
        "letter": run.letter,
        "path": str(run.record.path),
        "backbone": plan.backbone.name,
        "weights": plan.weights.label,
        "head": plan.head.name,
        "recipe": plan.recipe,
        "seed": plan.seed,
        "metrics": {split: asdict(scored) for split, scored in run.scores.items()},
        "kept": run.kept,
        "candidates": run.candidates,
        "parameters_trained": run.parameters_trained,
        "seconds": run.seconds,
        "proof": run.proof,
    }


def _named(rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    return [{"name": name, "values": list(values)} for name, values in rows]
