"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.artefact.classifier import Classifier

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run; `content` is what `result.json` holds."""

    path: Path
    """The run folder."""
    content: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.content["classes"])

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """`{"val": {"accuracy", "macro_f1", "loss"}}`, and `test` where there is one."""
        metrics: dict[str, dict[str, float]] = self.content["metrics"]
        return metrics

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the validation split, 0 to 1."""
        return self.metrics["val"]["accuracy"]

    @property
    def proof(self) -> str:
        """`passed` or `failed`."""
        return str(self.content["proof"])

    @property
    def artefact(self) -> Path:
        """The folder with the classifier."""
        return self.path / str(self.content["artefact"])

    def classifier(self) -> Classifier:
        """The classifier, loaded from the artefact."""
        from zoo.artefact.classifier import Classifier

        return Classifier.load(self.artefact)
