"""Which layers of a backbone low-rank adapters can train, found on the meta device."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from zoo.errors import Refused
from zoo.model.adapters import put_in, take_out
from zoo.model.measure import idle_parameters
from zoo.model.model import ZooModel


def adaptable_layers(outline: ZooModel, groups: Collection[str], *, rank: int) -> tuple[str, ...]:
    """Full names of the layers in these groups of a model on the meta device that adapters of the rank can train.

    Linear layers and ordinary convolutions that take part in the logits by being called. Left out are subclasses, whose
    forward may do other things; what is inside `nn.MultiheadAttention`, which reads weights without calling layers;
    grouped convolutions, whose adapters cannot be merged; dilated and circular ones, which peft does not know.

    Raises Refused where the backbone does not run with adapters in.
    """
    apart = tuple(f"{name}." for name, each in outline.named_modules() if isinstance(each, nn.MultiheadAttention))
    candidates = [
        f"backbone.{name}"
        for name, each in outline.backbone.named_modules()
        if name and _is_ordinary(each) and not f"backbone.{name}".startswith(apart)
    ]
    candidates = [
        name
        for name in candidates
        if f"{name}.weight" not in outline.idle and outline.group_of(f"{name}.weight") in groups
    ]
    put_in(outline, candidates, rank=rank, alpha=1)
    try:
        never_called = {outline.adapted.adapted_by(name) for name in idle_parameters(outline)}
    except Exception as error:  # whatever its forward does with a layer that is not what it was
        raise Refused(
            f"{outline.name} does not run with low-rank adapters in it: {error}\n"
            "Next: another recipe (zoo list recipes), or another backbone."
        ) from error
    finally:
        take_out(outline)
    return tuple(name for name in candidates if name not in never_called)


def _is_ordinary(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return type(module) is nn.Linear
