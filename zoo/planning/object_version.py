"""The version of an object that was passed in place of a name: what it computes, for it has no release.

It stands in the plan where that of a plugin's distribution stands. A run that is resumed with another head of the same
shapes is refused by it, a comparison of runs tells two lambdas apart, and cached features are never those of another
module with the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.model.build import build_backbone
from zoo.planning.head_object import features_for
from zoo.planning.resolved_model import ResolvedModel
from zoo.registry.session import SESSION, of_session
from zoo.specs.backbone import FeatureShape
from zoo.storage.tensors import tensors_digest

OBJECT = "object-"
"""How such a version begins."""
_LETTERS = 12


def head_version(model: ResolvedModel, shape: FeatureShape, classes: int) -> str:
    """The version of the head: its distribution's; of an object, a digest of its logits for fixed features."""
    head = model.head
    if head.plugin.name != SESSION:
        return head.plugin.version
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        # A head is built with random weights. From a fixed seed, they differ only where what is built does.
        module = head.spec.build(shape, classes, model.options)
        return _version(module, lambda: module(features_for(head.spec, shape)))


def backbone_version(model: ResolvedModel) -> str:
    """The version of the backbone: its distribution's; of an object, a digest of its features for fixed images."""
    backbone = model.backbone
    if backbone.plugin.name != SESSION:
        return backbone.plugin.version
    size = backbone.spec.preprocessing_for(model.weights.tag).input_size
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        built = build_backbone(backbone.spec.build, tag=model.weights.tag, state=None, input_size=None)
        return _version(built.module, lambda: built.pool(built.module, images))


def measured_name(model: ResolvedModel) -> str:
    """What speeds are remembered under: an object by what it computes, for another one may have its name."""
    name = f"{model.backbone.spec.name}.{model.weights.tag}"
    return f"{name} {backbone_version(model)}" if of_session(model.backbone.spec.name) else name


def _version(module: nn.Module, compute: Callable[[], Tensor]) -> str:
    """A digest of a module's tensors and of what it computes, of any shape, in evaluation mode."""
    module.eval()
    with torch.no_grad():
        output = compute()
    digest = tensors_digest({**module.state_dict(), "output": output})
    return f"{OBJECT}{digest[:_LETTERS]}"
