"""What a run in folds is judged by: for every training image, the logits of a fit that did not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.metrics import Scores, score
from zoo.probes.folds import Folds
from zoo.specs.run_result import OUT_OF_FOLD, Check

_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldFit:
    """A run of all stages without the images of one fold, judged on those."""

    logits: Mapping[str, Tensor]
    """logits[M, classes] of the M images of the fold, by each candidate's name in words."""
    checks: tuple[Check, ...]
    """The checks of its stages."""
    trained_on: frozenset[str]
    """Digests of the images that it was trained on."""
    stopped: str = ""
    """Why training ended early; empty where it did not."""


@dataclass(frozen=True, slots=True)
class JudgedInFolds:
    """The candidates of a run on every training image, each image judged by the fit without its fold."""

    logits: Mapping[str, Tensor]
    """logits[N, classes] by each candidate's name in words; of candidates that every fold has."""
    targets: Tensor
    """Class indices targets[N]."""
    folds: Folds
    """Which fold holds each image out."""
    balanced: bool = False
    """Whether models are compared as if every class had equally many images."""

    def scores(self, name: str) -> Scores | None:
        """The scores of a candidate; None where some fold lacks it."""
        return score(self.logits[name], self.targets, balanced=self.balanced) if name in self.logits else None

    def by_fold(self, name: str) -> list[dict[str, Any]]:
        """How many images each fold has, and the candidate's scores on them, as in `result.json`."""
        records = []
        for fold in range(self.folds.count):
            rows = torch.tensor(self.folds.held_out(fold))
            records.append({"images": len(rows), **score(self.logits[name][rows], self.targets[rows]).to_dict()})
        return records


def fault_in_folds(judged: JudgedInFolds | None, stage: str) -> str:
    """Why a stage cannot be judged by what the folds gave; empty where it can, and without folds."""
    if judged is None or stage in judged.logits:
        return ""
    return (
        f"Stage {stage!r} did not end in every fold, so it cannot be judged.\n"
        f"Next: a lower rate (--set {stage}.lr=...), or another number of folds."
    )


def put_together(fits: Sequence[FoldFit], folds: Folds, targets: Tensor, *, balanced: bool = False) -> JudgedInFolds:
    """Put the folds' logits in the order of all N images, whose class indices are targets[N].

    `balanced`: as in what is returned.
    """
    # A stage that ended early in one fold leaves that fold without its candidates.
    names = [name for name in fits[0].logits if all(name in fit.logits for fit in fits)]
    logits = {}
    for name in names:
        first = fits[0].logits[name]
        # Not a number where no fold judges an image: the check finds it.
        logits[name] = first.new_full((len(targets), first.shape[1]), torch.nan)
        for fold, fit in enumerate(fits):
            logits[name][torch.tensor(folds.held_out(fold))] = fit.logits[name]
    return JudgedInFolds(logits, targets, folds, balanced)


def check_out_of_fold(
    fits: Sequence[FoldFit], folds: Folds, contents: Mapping[str, str], judged: JudgedInFolds, kept_together: int
) -> Check:
    """Check that every image was judged once, by a fit that did not see it, and that the folds' own checks passed.

    Seen is an image also as a copy under another name.

    Args:
        fits: One for each fold.
        folds: Which fold holds each of N images out.
        contents: Digest of each of the N images, by name, in their order.
        judged: What came of it.
        kept_together: Number of images with a copy or near-duplicate in their fold.
    """
    seen = [
        (fold, name)
        for fold, (name, content) in zip(folds.of_rows, contents.items(), strict=True)
        # By content: a copy under another name would have been seen as well.
        if 0 <= fold < len(fits) and content in fits[fold].trained_on
    ]
    unjudged = [name for name, logits in judged.logits.items() if not bool(torch.isfinite(logits).all())]
    faults = [f"fold {fold + 1} was trained on {name} or a copy of it, which it judges" for fold, name in seen[:1]]
    faults += [f"{name} did not judge every image" for name in unjudged[:1]]
    faults += [
        f"fold {number}: {check.name} of stage {check.stage}: {check.summary}"
        for number, fit in enumerate(fits, start=1)
        for check in fit.checks
        if check.verdict == "failed"
    ]
    faults += [f"fold {number}: {fit.stopped}" for number, fit in enumerate(fits, start=1) if fit.stopped]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Check(
        name=OUT_OF_FOLD,
        verdict="failed" if faults else "passed",
        summary=f"{faults[0]}{more}"
        if faults
        else f"each of {len(contents):,} images was judged by a fit in {len(fits)} folds that had no copy of it",
        evidence={
            "folds": len(fits),
            "images": len(contents),
            "kept_together": kept_together,
            "seen": len(seen),
            "faults": faults[:_SHOWN],
        },
    )
