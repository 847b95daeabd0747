"""What the layouts of timm and torchvision have in common: a backbone with one linear layer on its pooled features.

Tensors are fitted by name and shape, so no list of architectures is needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.errors import Refused
from zoo.exporting.formats import WHAT_WORKS
from zoo.exporting.source import ExportSource

_NO_OPS = (nn.Dropout, nn.Identity)
"""Layers that do nothing in evaluation mode."""


def refuse_provider(source: ExportSource, provider: str) -> None:
    """Raise Refused where the backbone does not come from this library."""
    name = source.config.backbone.name
    if name.partition("/")[0] != provider:
        raise Refused(
            f"The backbone {name} is not one of {provider}'s, so {provider}'s layout cannot hold it.\n{WHAT_WORKS}"
        )


def architecture_of(source: ExportSource) -> tuple[str, str]:
    """Return the backbone's architecture and weights tag as its library names them; the tag may be empty."""
    name, _, tag = source.config.backbone.name.partition("/")[2].partition(".")
    return name, tag


def linear_of(source: ExportSource, library: str) -> nn.Linear:
    """Return the head's one linear layer. Raises Refused for a head that is anything else in evaluation mode."""
    head = source.model.head
    modules = list(head) if isinstance(head, nn.Sequential) else [head]
    layers = [module for module in modules if not isinstance(module, _NO_OPS)]
    # By the exact type: a layer that is derived from Linear may compute something else.
    if source.model.needs == "pooled" and len(layers) == 1 and type(layers[0]) is nn.Linear:
        return layers[0]
    raise Refused(
        f"{library}'s layout holds one linear layer on pooled features, and the head {source.config.head.name} is not "
        f"one.\n{WHAT_WORKS}, or train with --head linear or dropout_linear."
    )


def upstream_state(source: ExportSource, whole: nn.Module, linear: nn.Linear, library: str) -> dict[str, Tensor]:
    """Return the classifier's tensors under the names that the library gives them.

    Args:
        source: The classifier to export.
        whole: The library's model with its own classifier, for the same number of classes.
        linear: The head's linear layer.
        library: The library's name, for messages.

    Raises Refused where the library's classifier is not one linear layer (or a 1x1 convolution) with a bias.
    """
    own = source.model.backbone.state_dict()
    wanted: Mapping[str, Tensor] = whole.state_dict()
    # What the backbone does not have is the library's classifier.
    further = [name for name in wanted if name not in own]
    prefix = further[0].rpartition(".")[0] if further else ""
    weight, bias = f"{prefix}.weight", f"{prefix}.bias"
    fits = (
        own.keys() < wanted.keys()
        and set(further) == {weight, bias}
        and wanted[weight].numel() == linear.weight.numel()
        and len(wanted[weight]) == len(linear.weight)
        and all(own[name].shape == wanted[name].shape for name in own)
        and linear.bias is not None
    )
    if not fits:
        shown = ", ".join(further[:4]) or "nothing"
        raise Refused(
            f"{library}'s own classifier of {source.config.backbone.name} is not one linear layer on pooled features: "
            f"besides the backbone it has {shown}{', ...' if len(further) > 4 else ''}.\n{WHAT_WORKS}"
        )
    return {**own, weight: linear.weight.detach().reshape(wanted[weight].shape), bias: linear.bias.detach()}
