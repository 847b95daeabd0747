"""The layouts of timm and torchvision: a backbone with one linear layer on its pooled features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.errors import Refused
from zoo.exporting.subject import Subject

WHAT_WORKS = "What works: --to onnx or --to pt2"
_IDLE = (nn.Dropout, nn.Identity)


def refuse_provider(subject: Subject, provider: str) -> None:
    """Raise Refused for a backbone of another library."""
    name = subject.config.backbone.name
    if name.partition("/")[0] != provider:
        raise Refused(
            f"The backbone {name} is none of {provider}'s, so {provider}'s layout cannot hold it.\n{WHAT_WORKS}"
        )


def architecture_of(subject: Subject) -> tuple[str, str]:
    """(name, tag) as the library calls them; the tag may be empty."""
    name, _, tag = subject.config.backbone.name.partition("/")[2].partition(".")
    return name, tag


def linear_of(subject: Subject, library: str) -> nn.Linear:
    """The head's one linear layer. Raises Refused for a head that is anything else in evaluation mode."""
    head = subject.model.head
    parts = list(head) if isinstance(head, nn.Sequential) else [head]
    layers = [each for each in parts if not isinstance(each, _IDLE)]
    if subject.model.needs == "pooled" and len(layers) == 1 and type(layers[0]) is nn.Linear:
        return layers[0]
    raise Refused(
        f"{library}'s layout holds one linear layer on pooled features, and the head {subject.config.head.name} is not "
        f"one.\n{WHAT_WORKS}, or train with --head linear or dropout_linear"
    )


def upstream_state(subject: Subject, whole: nn.Module, linear: nn.Linear, library: str) -> dict[str, Tensor]:
    """The classifier's tensors under the names that `whole`, the library's model with its own classifier, has.

    Raises Refused where the library's classifier is not one linear layer (or a 1x1 convolution) with a bias.
    """
    own = subject.model.backbone.state_dict()
    wanted: Mapping[str, Tensor] = whole.state_dict()
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
            f"{library}'s own classifier of {subject.config.backbone.name} is not one linear layer on pooled features: "
            f"beside the backbone it has {shown}{', ...' if len(further) > 4 else ''}.\n{WHAT_WORKS}"
        )
    return {**own, weight: linear.weight.detach().reshape(wanted[weight].shape), bias: linear.bias.detach()}
