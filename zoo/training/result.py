"""The result of a run: what `finetune` returns, and the content of `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.specs.plan import Plan
from zoo.specs.run_result import RunResult

if TYPE_CHECKING:
    from zoo.artefact.classifier import Classifier
    from zoo.evaluation.out_of_memory import OutOfMemoryRetry

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(RunResult):
    """A finished run, as `finetune` returns it, from which its classifier can be loaded."""

    def classifier(self) -> Classifier:
        """Load the classifier from the artefact. Raises ZooError as `zoo.load` does."""
        from zoo.artefact.classifier import Classifier

        return Classifier.load(self.artefact)


def result_content(
    plan: Plan,
    *,
    selection: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    stages: Sequence[Mapping[str, Any]],
    retries: Sequence[OutOfMemoryRetry],
    seconds: Mapping[str, float],
    proof: str,
    artefact: str,
    folds: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the content of `result.json`, in plain JSON types.

    Args:
        plan: The plan of the run.
        selection: What was kept, how it was chosen, and what choosing is worth.
        metrics: Scores of each split.
        stages: A record of each stage.
        retries: A record of each time that memory ran out.
        seconds: Seconds of each part of the run, and in total.
        proof: `passed` or `failed`.
        artefact: The folder of the classifier, relative to the run folder.
        folds: Images and scores of each fold; None for a run with a validation split, whose result has no such key.
    """
    return {
        "format": FORMAT,
        "backbone": plan.backbone.name,
        "weights": plan.weights.label,
        "head": plan.head.name,
        "recipe": plan.recipe,
        "classes": list(plan.classes),
        "metrics": metrics,
        "selection": selection,
        "stages": stages,
        "memory": [asdict(retry) for retry in retries],
        "seconds": seconds,
        "proof": proof,
        "artefact": artefact,
        **({} if folds is None else {"folds": folds}),
    }
