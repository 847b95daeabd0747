"""What a run gives back: its checks and its result, as records that events may name. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["passed", "warning", "failed"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """A finished run; `content` is what `result.json` holds."""

    path: Path
    """The run folder."""
    content: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
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
