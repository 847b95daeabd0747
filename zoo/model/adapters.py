"""Low-rank adapters (LoRA, arXiv:2106.09685) in a backbone: which layers can have one, and injecting, merging and
removing them with the peft library.

While adapters are in, peft's layers stand in place of the adapted ones: `x.weight` is called `x.base_layer.weight`, and
the adapter is `x.lora_A.default.weight` and `x.lora_B.default.weight`. Only `groups.AdaptedNames` knows these names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from zoo.errors import Refused
from zoo.model.groups import AdaptedNames
from zoo.model.measure import idle_parameters
from zoo.model.model import ZooModel

_PREFIX = "backbone."


def require_peft(source: str, stage: str) -> None:
    """Raise Refused where peft, the library that makes adapters, is not installed.

    Args:
        source: The recipe's name or file, for the message.
        stage: The name of its stage that trains adapters, for the message.
    """
    if importlib.util.find_spec("peft") is None:
        raise Refused(
            f"The recipe {source} trains low-rank adapters in its stage {stage!r}. They need the peft library, which "
            "is not installed.\nNext: pip install 'zoo-registry[lora]', or another recipe: zoo list recipes"
        )


def adaptable_layers(outline: ZooModel, groups: Collection[str], *, rank: int) -> tuple[str, ...]:
    """List the layers that adapters of this rank can train, by full name.

    These are linear layers and ordinary convolutions that are called on the way from images to logits. Left out are:
    subclasses, because their forward pass may do other things; layers inside `nn.MultiheadAttention`, which reads
    weights without calling layers; layers that stand in several places or share their weight, into which an adapter of
    one place would be merged for all; grouped convolutions, whose adapters cannot be merged; dilated ones, and those
    with other padding than zeros, which peft does not support.

    Args:
        outline: A model on the meta device.
        groups: Groups of its backbone to look in.
        rank: Rank of the adapters.

    Raises Refused where the backbone does not run with adapters in it.
    """
    attention = tuple(
        f"{name}." for name, module in outline.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    names = [f"{_PREFIX}{name}" for name, module in outline.backbone.named_modules() if name and _is_ordinary(module)]
    shared = {f"{_PREFIX}{name}" for pair in outline.groups.shared.items() for name in pair}
    candidates = [
        name
        for name in names
        if not name.startswith(attention)
        and shared.isdisjoint([name, f"{name}.weight"])
        and f"{name}.weight" not in outline.idle
        and outline.group_of(f"{name}.weight") in groups
    ]
    with adapted(outline, candidates, rank=rank, alpha=1):
        # A layer whose weight is read without calling the layer would have an adapter that works only once merged.
        # No gradient reaches such an adapter, so it counts as idle.
        try:
            never_called = {outline.adapted.adapted_by(name) for name in idle_parameters(outline)}
        except Exception as error:  # a backbone may fail in any way on layers that are not its own
            raise Refused(
                f"{outline.name} does not run with low-rank adapters in it: {error}\n"
                "Next: another recipe (zoo list recipes), or another backbone."
            ) from error
    return tuple(name for name in candidates if name not in never_called)


def _is_ordinary(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    return type(module) is nn.Linear


def inject(model: ZooModel, layers: Sequence[str], *, rank: int, alpha: float) -> None:
    """Give each layer an adapter, on the layer's device.

    A layer then returns its own output plus `alpha / rank` times the adapter's. At first the adapters change nothing.
    Their initial values are drawn from torch's global random generator.

    Args:
        model: The model whose backbone gets the adapters.
        layers: Full names of the layers, as `adaptable_layers` returns them.
        rank: Rank of the adapters.
        alpha: Scale of the adapters.
    """
    if not layers:
        return
    from peft import LoraConfig, inject_adapter_in_model

    # One pattern for whole names: in a list, `conv1` would stand for `layer1.0.conv1` as well.
    pattern = "|".join(re.escape(name.removeprefix(_PREFIX)) for name in layers)
    # peft declares alpha as an integer, but only divides by the rank.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern)  # type: ignore[arg-type]
    on_meta = next(model.parameters()).is_meta
    with torch.device("meta" if on_meta else "cpu"):
        inject_adapter_in_model(config, model.backbone)
    model.adapted = AdaptedNames(frozenset(layers))
    model.compute_as(model.compute)  # the new layers need the backbone's memory layout


@contextlib.contextmanager
def adapted(model: ZooModel, layers: Sequence[str], *, rank: int, alpha: float) -> Iterator[None]:
    """Inject adapters as `inject` does, and remove them at the end, also after an error."""
    inject(model, layers, rank=rank, alpha=alpha)
    try:
        yield
    finally:
        remove(model)


def merge(model: ZooModel) -> None:
    """Add what the adapters learned to the weights of their layers, and remove the adapters."""
    for name in model.adapted.layers:
        layer: Any = model.get_submodule(name)
        layer.merge()
    remove(model)


def remove(model: ZooModel) -> None:
    """Put the original layers back with the weights that they have now. Does nothing to a model without adapters."""
    for name in model.adapted.layers:
        parent, _, last = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    if model.adapted.layers:
        del model.backbone.peft_config
    model.forget_adapters()
