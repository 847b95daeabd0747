"""What a soup is when it is done: the object that `zoo.soup` returns, and the content of `soup.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.artefact.config import FOLDER
from zoo.evaluation.metrics import Scores
from zoo.evaluation.out_of_memory import OutOfMemoryRetry
from zoo.specs.plan import Plan
from zoo.training.choosing import IN_WORDS
from zoo.training.result import Result

FORMAT = 1
RECIPE = "soup"
"""What stands for a recipe in a soup's config, card and record."""
RULE = (
    "by validation accuracy, and loss where that is equal, the best ingredient first; each further one is added where "
    "the average with it has a higher accuracy, or the same one and no higher loss"
)
"""How ingredients are chosen, as `soup.json` says it."""
_BALANCED = " (accuracy and loss with every class counting the same)"
"""What is added to that where all runs ask for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tasted:
    """What became of one ingredient."""

    run: Path
    """The run folder."""
    name: str
    """The run as tables and the artefact name it."""
    digest: str
    """SHA-256 of the file with its tensors."""
    kept: str
    """The stage whose model the run kept."""
    scores: Scores
    """Its own validation scores, computed when the soup was made."""
    together: Scores | None
    """Validation scores of the average of it and what had been added before; None where there was nothing to average:
    for the first, and for one that has the weights of another."""
    added: bool
    same_as: str | None = None
    """The name of an ingredient before it with the same weights, bit for bit; it counts once."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        together = None if self.together is None else {"val": self.together.to_dict()}
        return {
            # Whoever reads the soup may be in another folder.
            "run": str(self.run.absolute()),
            "name": self.name,
            "digest": self.digest,
            "kept": self.kept,
            "metrics": {"val": self.scores.to_dict()},
            "together": together,
            "added": self.added,
            "same_as": self.same_as,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Soup(Result):
    """A finished soup, as `zoo.soup` returns it; `content` is what `soup.json` holds."""

    @property
    def ingredients(self) -> list[dict[str, Any]]:
        """Each run with its own scores, those of the average with it, and whether it was added; best first."""
        listed: list[dict[str, Any]] = self.content["ingredients"]
        return listed

    @property
    def added(self) -> list[str]:
        """Names of the runs whose weights were averaged, the best first."""
        return [each["name"] for each in self.ingredients if each["added"]]


def soup_content(
    plan: Plan,
    *,
    start: Mapping[str, Any],
    tasted: Sequence[Tasted],
    balanced: bool,
    candidates: int,
    metrics: Mapping[str, Mapping[str, float]],
    batch_norms_averaged: int,
    retries: Sequence[OutOfMemoryRetry],
    seconds: Mapping[str, float],
    proof: str,
) -> dict[str, Any]:
    """Return the content of `soup.json`, in plain JSON types; where it can, with the keys of `result.json`.

    Args:
        plan: The plan of the best ingredient, as the soup's artefact was written with it.
        start: Where all runs began.
        tasted: What became of each ingredient, in the order in which they were tried.
        balanced: Whether they were compared as if every class had equally many images.
        candidates: How many models the soup was chosen among.
        metrics: Scores of each split.
        batch_norms_averaged: Batch norms whose running statistics differ between what was averaged.
        retries: A record of each time that memory ran out.
        seconds: Seconds of each part of the work, and in total.
        proof: `passed` or `failed`.
    """
    return {
        "format": FORMAT,
        "backbone": plan.backbone.name,
        "weights": plan.weights.label,
        "head": plan.head.name,
        "recipe": RECIPE,
        "classes": list(plan.classes),
        "metrics": metrics,
        "selection": {
            "on": IN_WORDS["balanced_accuracy" if balanced else "accuracy"].format("val"),
            "rule": RULE + (_BALANCED if balanced else ""),
            "candidates": candidates,
            "kept": [each.name for each in tasted if each.added],
        },
        "start": start,
        "ingredients": [each.to_dict() for each in tasted],
        "batch_norms_averaged": batch_norms_averaged,
        "memory": [asdict(retry) for retry in retries],
        "seconds": seconds,
        "proof": proof,
        "artefact": FOLDER,
    }
