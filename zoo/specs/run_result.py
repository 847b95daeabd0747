"""What a run gives back: its checks and its result, as records that events may name. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["passed", "warning", "failed"]
OUT_OF_FOLD = "out_of_fold"
"""In place of a split: every training image, predicted by a fit to the folds that it is not in."""


JUDGED_IN_WORDS = {"val": "validation", OUT_OF_FOLD: "out-of-fold", "test": "test"}
"""Before "accuracy" and the like."""


def judged_on(metrics: Mapping[str, Any]) -> str:
    """What a run or a stage was judged by: `out_of_fold` for a run in folds, `val` for any other."""
    return OUT_OF_FOLD if OUT_OF_FOLD in metrics else "val"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    verdict: Verdict
    summary: str
    """What was found, for people."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    stage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "stage": self.stage,
            "verdict": self.verdict,
            "summary": self.summary,
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Check:
        """The inverse of `to_dict`."""
        return cls(**stored)


def part_of_the_way(share: float) -> str:
    """How much of the way a blend goes: `50 % of the way`."""
    return f"{100 * share:g} % of the way"


def named_in_words(stage: str, share: float | None, start: str | None) -> str:
    """What a run kept: `all`, or of a blend with the end of the stage `start`, `all, 50 % of the way from head`."""
    return stage if share is None else f"{stage}, {part_of_the_way(share)} from {start}"


def kept_in_words(selection: Mapping[str, Any]) -> str:
    """What a run kept, from `selection` of its `result.json`; those of older runs know no blends."""
    return named_in_words(selection["kept"], selection.get("blend"), selection.get("blend_from"))


def optimism_in_words(selection: Mapping[str, Any]) -> str | None:
    """What choosing is worth on the images that chose, from `selection` of `result.json`; None if nothing is known."""
    optimism, candidates = selection.get("optimism"), selection.get("optimism_candidates", 1)
    if optimism is None or candidates < 2:
        return None
    # Less would be written as 0.0 points.
    worth = f"about {100 * optimism:.1f} points" if optimism >= 0.0005 else "less than 0.1 points"
    sentence = f"choosing among {candidates} candidates on {selection['images']:,} images is worth {worth} of that"
    # The best epoch of a stage was chosen on the same images, and the logits of the others are not kept.
    more = selection["candidates"] > candidates
    return sentence + (", and choosing among epochs comes on top, which is not estimated" if more else "")


def trained_before_in_words(counts: Mapping[str, int]) -> str:
    """What a result says of it, from `weights_trained_on` of `result.json`; empty where that is empty."""
    if not counts:
        return ""
    numbers = " and ".join(f"{count:,} {JUDGED_IN_WORDS.get(split, split)} images" for split, count in counts.items())
    return f"the backbone was trained before, on {numbers}, so their scores are too good"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """A finished run; `content` is what `result.json` holds."""

    path: Path
    """The run folder, as it was given."""
    content: dict[str, Any]
    folder: Path = field(init=False, repr=False, compare=False)
    """The run folder as an absolute path, which is found after a change of the working directory, too."""

    def __post_init__(self) -> None:
        # By this call, as the record is frozen; now, as the working directory may change later.
        object.__setattr__(self, "folder", self.path.absolute())

    def __repr__(self) -> str:
        judged = JUDGED_IN_WORDS[judged_on(self.metrics)]
        return f"{type(self).__name__}({str(self.path)!r}: {judged} accuracy {self.accuracy:.3f}, proof {self.proof})"

    def __fspath__(self) -> str:
        """The run folder: a result stands wherever the path of a run does, `zoo.compare(first, second)`."""
        return str(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(self.content["classes"])

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """`{"val": {"accuracy", "macro_f1", "loss"}}`, and `test` where there is one; with folds,
        `out_of_fold` in place of `val`. With a balanced `choose_by`, also `balanced_accuracy` and `balanced_loss`."""
        metrics: dict[str, dict[str, float]] = self.content["metrics"]
        return metrics

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the validation split, 0 to 1; of a run in folds, out of fold."""
        return self.metrics[judged_on(self.metrics)]["accuracy"]

    @property
    def proof(self) -> str:
        """`passed` or `failed`."""
        return str(self.content["proof"])

    @property
    def artefact(self) -> Path:
        """The folder with the classifier, as an absolute path."""
        return self.folder / str(self.content["artefact"])
