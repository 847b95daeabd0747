"""Blends: weights a part of the way from the end of a head stage to the end of a later one (WiSE-FT, arXiv:2109.01903).

At the end of a stage that trains the head alone, the backbone is what it was before. What lies between that and a
fine-tuned model keeps more of the pretrained weights, and is often better on new images than either end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import Check, part_of_the_way
from zoo.storage.tensors import tensor_digest
from zoo.training.stage_state import load_partial_state_dict

_SHOWN = 10
"""Names that the evidence lists."""


@dataclass(frozen=True, slots=True)
class HeadEnd:
    """The end of a stage that trained the head alone, from which later stages are blended."""

    stage: str
    """Its name."""
    state: dict[str, Tensor]
    """Those tensors[...] by full name that later stages may change, on the CPU."""


@dataclass(frozen=True, slots=True)
class Blend:
    """A blend that the model holds now."""

    share: float
    """How much of the way it goes: 0 would be the end of the head stage, 1 the end of the later one."""
    start: HeadEnd
    end: Mapping[str, Tensor]
    """The model's state dict at the end of the later stage."""

    def digests(self) -> dict[str, str]:
        """Return the digest of every tensor of this blend, computed from the two ends alone, for `check_blended`.

        By numpy, and for all tensors, so that nothing of how the model was blended is used.
        """
        return {name: tensor_digest(torch.from_numpy(self._recomputed(name))) for name in self.end}

    def _recomputed(self, name: str) -> numpy.ndarray:
        last = self.end[name].numpy()
        first = self.start.state[name].numpy() if name in self.start.state else last
        if not numpy.issubdtype(last.dtype, numpy.floating):
            return last
        mixed = first.astype(numpy.float64) * (1 - self.share) + last.astype(numpy.float64) * self.share
        return numpy.asarray(mixed).astype(last.dtype)


def blended(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Blend tensors[...] by name: (1 - share) of the start and `share` of the end; of whole numbers the end's.

    In double precision, rounded once. Returned are the tensors that are in `start`.
    """
    return {
        name: (tensor.double() * (1 - share) + end[name].double() * share).to(tensor.dtype)
        if tensor.is_floating_point()
        else end[name]
        for name, tensor in start.items()
    }


def blends(model: ZooModel, stage: StagePlan, start: HeadEnd | None) -> Iterator[Blend]:
    """Put each blend of a finished stage into the model in turn, and in the end the stage's own end again."""
    shares = stage.settings.blend
    if not shares:
        return
    assert start is not None, "the plan refused blends without a head stage before"
    end = cpu_state(model)
    for share in shares:
        load_partial_state_dict(model, blended(start.state, end, share))
        yield Blend(share, start, end)
    # Nothing else of the model was changed.
    load_partial_state_dict(model, {name: end[name] for name in start.state})


def cpu_state(model: ZooModel) -> dict[str, Tensor]:
    """Return a copy of the model's state dict on the CPU: the device may not have memory for the model twice."""
    # On a CPU `cpu()` gives the very tensor, which training would go on to change.
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def check_blended(
    digests: Mapping[str, str], saved: Mapping[str, Tensor], *, stage: str, start: str, share: float
) -> Check:
    """Compare the saved tensors with the blend of the two ends: every bit must be equal.

    Args:
        digests: Of the blend's tensors by name, as `Blend.digests` recomputed them.
        saved: The tensors[...] of the artefact, by name.
        stage: Name of the stage that was kept.
        start: Name of the head stage that it is blended with.
        share: How much of the way the blend goes.
    """
    found = {name: tensor_digest(tensor) for name, tensor in saved.items()}
    # Over the names of both: a tensor that only one of them has is wrong as well.
    wrong = sorted(name for name in {**digests, **found} if digests.get(name) != found.get(name))
    way = f"{part_of_the_way(share)} from the end of {start} to that of {stage}"
    return Check(
        name="blended",
        stage=stage,
        verdict="failed" if wrong else "passed",
        summary=f"{wrong[0]} (and {len(wrong) - 1} more) is not what lies {way}"
        if len(wrong) > 1
        else f"{wrong[0]} is not what lies {way}"
        if wrong
        else f"the {len(found)} saved tensors are, bit for bit, what lies {way}",
        evidence={"share": share, "start": start, "tensors": len(found), "differing": wrong[:_SHOWN]},
    )
