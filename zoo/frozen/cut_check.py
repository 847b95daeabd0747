"""Whether a cut backbone computes what the whole one does: asked where a stage trains on rows of its first part."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.model.cut import CannotCut, Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import Check


def cut_fault(model: ZooModel, before: str, images: Tensor) -> str:
    """What is wrong with the backbone cut before a group, as the end of a sentence; empty where nothing is.

    Nothing is wrong where suffix(prefix(images[N, 3, H, W])) has the bits of the whole backbone. A tolerance would hide
    a wrong cut.
    """
    try:
        cut = model.cut_before(before)
    except CannotCut as error:
        return f"cannot be: {error}"
    return fault_of(model, cut, images)


def fault_of(model: ZooModel, cut: Cut, images: Tensor) -> str:
    """What is wrong with a cut that was made already, on images[N, 3, H, W], in the words of `cut_fault`.

    The model is left in evaluation mode.
    """
    images = images.to(next(model.parameters()).device)
    model.eval()
    with torch.no_grad(), out_of_memory_as_error("comparing the cut backbone with the whole"):
        # In one batch of one size both times: the size of a batch alone may change bits.
        whole = model.features(images)
        parts = model.features_after(cut, model.outputs_before(cut, images))
    if torch.equal(whole, parts):
        return ""
    return f"gives other features than the whole, by up to {float((whole - parts).abs().max()):.3g}"


def check_cut(model: ZooModel, stage: StagePlan, images: Tensor) -> Check:
    """Check a stage's cut on validation images[N, 3, H, W], right before it is used."""
    fault = cut_fault(model, stage.cut, images)
    return Check(
        name="kept_prefix",
        stage=stage.settings.name,
        verdict="failed" if fault else "passed",
        summary=f"the backbone cut before {stage.cut} {fault}"
        if fault
        else f"cut before {stage.cut}, the backbone gives the whole one's bits on {len(images)} images",
        evidence={"before": stage.cut, "images": len(images)},
    )
