"""The result of a comparison, for the terminal, the page and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.comparing.differences import Differences, value_of
from zoo.comparing.pairing import SPLITS
from zoo.evaluation.metrics import Share
from zoo.evaluation.significance import ALPHA, Interval, Outcomes
from zoo.reporting.record import RunRecord
from zoo.specs.drawn import drawn
from zoo.specs.run_result import kept_in_words

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitScores:
    """The scores of one run on all its images of one split."""

    images: int
    accuracy: Share
    """Top-1 accuracy with its 95 % Wilson interval."""
    macro_f1: float
    loss: float | None
    """Mean cross-entropy in nats; None if it was not finite."""
    calibration_error: float | None
    """Expected calibration error, 0 to 1; None for a run of an older zoo, which stored none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """One of the compared runs."""

    letter: str
    """`A` for the first run, `B` for the second, and so on."""
    name: str
    """The name of the run folder, or its path if two folders have the same name."""
    record: RunRecord
    scores: dict[str, SplitScores]
    """Split -> scores, `test` first."""

    @property
    def kept(self) -> str:
        """The stage whose model the run kept."""
        return str(self.record.result["selection"]["kept"])

    @property
    def kept_in_words(self) -> str:
        """The kept stage, or of a blend also how much of the way from the end of which stage it goes."""
        return kept_in_words(self.record.result["selection"])

    @property
    def candidates(self) -> int:
        """The number of models among which the kept one was chosen on the validation images; 1 if none was chosen."""
        selection = self.record.result["selection"]
        # Where the last stage is kept in any case, the others were scored, but chose nothing.
        return int(selection["candidates"]) if selection["on"] != "the last stage" else 1

    @property
    def parameters_trained(self) -> int:
        """The largest number of trained parameters in any stage up to the kept one."""
        # Stages after the kept one did not shape the saved model.
        stages = self.record.result["stages"]
        names = [stage["name"] for stage in stages]
        until = names.index(self.kept) + 1 if self.kept in names else len(names)
        return max(int(stage["trainable_parameters"]) for stage in stages[:until] if not stage.get("abandoned"))

    @property
    def seconds(self) -> float:
        """Duration of the whole run."""
        return float(self.record.result["seconds"]["total"])

    @property
    def proof(self) -> str:
        """`passed` or `failed`."""
        return str(self.record.result["proof"])


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """The paired test of two runs on the images of one split that both judged."""

    split: str
    outcomes: Outcomes
    of_pictures: Outcomes
    """The same, but every picture counts once, however many copies of it there are: what is tested."""
    accuracy: tuple[float, float]
    """Accuracy of the first run and of the other one on these images, 0 to 1."""
    interval: Interval
    """95 % paired bootstrap interval of the difference in accuracy."""
    p: float
    """p-value of the exact, two-sided McNemar test."""
    p_adjusted: float
    """`p` corrected by Holm's method for the number of comparisons; equal to `p` if there is only one."""
    smallest_shown: float | None
    """The smallest difference in accuracy that these images could show: its p-value would be below 0.05, divided by the
    number of comparisons. None if they cannot show any."""

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance explains: the corrected p-value is below 0.05."""
        return self.p_adjusted < ALPHA

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "split": self.split,
            "images": self.outcomes.images,
            "accuracy": list(self.accuracy),
            "difference": self.outcomes.difference,
            **asdict(self.outcomes),
            **({"of_pictures": asdict(self.of_pictures)} if self.of_pictures.images < self.outcomes.images else {}),
            "interval": asdict(self.interval),
            "mcnemar_p": self.p,
            "holm_p": self.p_adjusted,
            "significant": self.significant,
            "smallest_shown": self.smallest_shown,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPair:
    """One run compared with the first."""

    first: ComparedRun
    run: ComparedRun
    differences: Differences
    tested: tuple[PairedTest, ...]
    """One test for each split with images that both judged, `test` first."""
    relabelled: dict[str, int]
    """Split -> how many images both judged under different true classes; the tests leave them out."""
    ambiguous: dict[str, int]
    """Split -> how many images have other names in the two runs and copies among them; the tests leave them out."""
    copies: dict[str, int]
    """Split -> how many of the tested images are copies of one another; the tests take these for one observation."""
    pictures: dict[str, int]
    """Split -> how many different pictures these copies are."""
    copies_known: bool
    """Whether the images could be looked at. Where they are gone, the tests take each for an independent one."""
    same_images: bool
    """Whether the two judged exactly the same images under the same labels, so that their own metrics can be compared
    too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two or more finished runs, each compared with the first."""

    runs: tuple[ComparedRun, ...]
    against: tuple[RunPair, ...]
    """One entry for every run but the first."""
    conclusions: tuple[tuple[str, ...], ...]
    """For each entry of `against`, sentences that say what may be concluded and what may not."""
    cautions: tuple[str, ...]
    """Sentences that hold for the comparison as a whole."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits for which at least one run has metrics, `test` first."""
        return tuple(split for split in SPLITS if any(split in run.scores for run in self.runs))

    @property
    def choices(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, value in each run) of every choice that differs between runs."""
        return self._rows([name for pair in self.against for name in pair.differences.choices])

    @property
    def surroundings(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, value in each run) of device, threads and versions that differ."""
        return self._rows([name for pair in self.against for name in pair.differences.surroundings])

    @property
    def follows(self) -> tuple[str, ...]:
        """Names of what differs only because a choice or the seed does."""
        return tuple(dict.fromkeys(name for pair in self.against for name in pair.differences.follows))

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """The seed of each run; None if all have the same."""
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
                    "run": pair.run.letter,
                    "against": pair.first.letter,
                    "choices": list(pair.differences.choices),
                    "seed_differs": pair.differences.seed,
                    "same_images": pair.same_images,
                    "relabelled": pair.relabelled,
                    "ambiguous": pair.ambiguous,
                    "copies": pair.copies,
                    "tested": [tested.to_dict() for tested in pair.tested],
                    "conclusion": list(sentences),
                }
                for pair, sentences in zip(self.against, self.conclusions, strict=True)
            ],
            "cautions": list(self.cautions),
        }

    def _repr_html_(self) -> str | None:
        """The page of `zoo compare` in a frame, or its tables where the page is too large for a notebook."""
        # By what lies above: the page imports these records, so they cannot import the page.
        return drawn(self)

    def _rows(self, names: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        plans = [run.record.plan for run in self.runs]
        return tuple((name, tuple(value_of(plan, name) for plan in plans)) for name in dict.fromkeys(names))


def _run(run: ComparedRun) -> dict[str, Any]:
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
        "blend": run.record.result["selection"].get("blend"),
        "candidates": run.candidates,
        "parameters_trained": run.parameters_trained,
        "seconds": run.seconds,
        "proof": run.proof,
    }


def _named(rows: Sequence[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    return [{"name": name, "values": list(values)} for name, values in rows]
