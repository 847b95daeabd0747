"""Which of two things is to blame where training meets a number that is not finite: what is frozen, or the rate.

What frozen groups give for an image does not depend on training. So where that is not finite, no other rate helps, and
a message that advises one would send people round in circles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import FeaturesError
from zoo.frozen.inputs import CachedInputs, Inputs
from zoo.probes.logistic import NEXT_IF_NOT_FINITE, refuse_not_finite
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import Check
from zoo.training.stage_watch import NotFinite, StageWatch

_AT_A_TIME = 128
"""Rows that are looked at together: of an early cut each may have a megabyte."""


def refuse_features(features: Tensor, watch: StageWatch, stage: StagePlan) -> None:
    """Check what a head is to be fitted to in one go.

    Args:
        features: Of all training images and views, features[N, ...].
        watch: The stage's, which gets a failed check in place of the one on what is fitted.
        stage: The stage.

    Raises:
        NotFinite: Some of them are not finite.
    """
    try:
        refuse_not_finite(features.flatten(1))
    except FeaturesError as error:
        check = "solver" if stage.solver == "lbfgs" else "closed_form"
        summary = "nothing was fitted, for the features are not finite"
        watch.solved(Check(name=check, stage=stage.settings.name, verdict="failed", summary=summary, evidence={}))
        raise NotFinite(f"Stage {stage.settings.name!r}: {error}") from None


def blamed(error: NotFinite, inputs: Inputs, *, stage: str) -> NotFinite:
    """Return the error of a step, or one in its place where the rows that the stage trains on are at fault.

    Args:
        error: What stopped the stage.
        inputs: What the stage trains on. Of images, nothing is known beside what the error says.
        stage: The stage's name.
    """
    if not isinstance(inputs, CachedInputs):
        return error
    wrong = total = 0
    for view in inputs.views:
        for rows in view.chunks(_AT_A_TIME):
            wrong += int(torch.isfinite(rows).flatten(1).all(1).logical_not().sum())
            total += len(rows)
    if not wrong:
        return error
    what = f"before {inputs.before}" if inputs.before else "of the backbone"
    return NotFinite(
        f"Stage {stage!r}: the frozen outputs {what} are not finite for {wrong:,} of {total:,} training images and "
        f"views, so nothing can be trained on them.\n{NEXT_IF_NOT_FINITE}"
    )
