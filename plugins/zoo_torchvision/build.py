"""Build torchvision models without their classifiers."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import zoo
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from zoo_torchvision.features import feature_map, map_width
from zoo_torchvision.groups import find_groups
from zoo_torchvision.upstream import weights_member

# Auxiliary classifiers in the published googlenet and inception_v3 files. torchvision drops them too by default.
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
# Some published files are older than today's module names. These renamings are those of torchvision's own loaders.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)

_POSITIONS = "encoder.pos_embedding"


def build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    """Build torchvision's model without its classifier, as its weights `tag` need it.

    Its map[N, C, H', W'] is the input of its pooling. AlexNet, VGG and MobileNetV3 have hidden layers after it, which
    stay: the pooled features[N, F] are their output.

    Args:
        architecture: torchvision's name.
        tag: Name of a member of the architecture's weights enumeration; None for the default weights.
        state: Tensors by torchvision's names, current or older ones; None for random weights. On the meta device only
            tensors that are there too, to see whether names and shapes fit.
        input_size: (height, width), if other than that of the weights. ViTs and MaxViT are built for it, and the
            position embeddings of ViTs in `state` are resampled; other architectures accept any size.

    Raises:
        LookupError: The installed torchvision has no such weights.
        ValueError: The architecture cannot be built for images of `input_size`.
        zoo.WeightsMismatch: `state` is not for this architecture.
    """
    if state is not None and torch.get_default_device().type == "meta" and not _without_values(state):
        raise ValueError("the meta device holds no values: build there without a state, or with names and shapes alone")
    weights = weights_member(architecture, tag)
    module = _with_classifier(architecture, weights, input_size, random=state is None)
    # torchvision names no categories if a file's classifier is unusable (the features of VGG-16).
    features_only = weights.meta["categories"] is None
    width, removed = _remove_hidden(module) if features_only else _remove_classifier(module)
    if state is not None:
        ignore = (removed, *_AUXILIARY)
        offered: Mapping[str, Tensor] = _renamed(state)
        if input_size is not None and isinstance(module, models.VisionTransformer):
            offered = _resampled(offered, module)
        zoo.load_weights(module, offered, architecture=f"torchvision/{architecture}", ignore=ignore)
    return _backbone(architecture, module, width)


def _without_values(state: Mapping[str, Tensor]) -> bool:
    return bool(state) and all(tensor.device.type == "meta" for tensor in state.values())


def _backbone(architecture: str, module: nn.Module, pooled: int) -> zoo.Backbone:
    groups = find_groups(architecture, module)
    compute_map = feature_map(module)
    if compute_map is None:
        reason = f"zoo does not know where torchvision's {type(module).__name__} pools"
        return zoo.Backbone(module=module, shape=zoo.FeatureShape(pooled=pooled), groups=groups, no_map=reason)
    shape = zoo.FeatureShape(pooled=pooled, map=map_width(module, pooled))
    return zoo.Backbone(module=module, shape=shape, groups=groups, map=compute_map)


def _with_classifier(architecture: str, weights: Any, input_size: tuple[int, int] | None, *, random: bool) -> nn.Module:
    arguments = _arguments(architecture, weights, input_size, random=random)
    # On the meta device initialisation has no effect, but would still take most of the building time.
    initialisation = zoo.skip_init() if torch.get_default_device().type == "meta" else nullcontext()
    arithmetic = _HostArithmetic() if architecture.startswith("regnet") else nullcontext()
    with initialisation, arithmetic:
        module: nn.Module = models.get_model(architecture, weights=None, **arguments)
    return module


def _arguments(architecture: str, weights: Any, input_size: tuple[int, int] | None, *, random: bool) -> dict[str, Any]:
    """Return torchvision's arguments for these weights, without the initial values that a state would overwrite."""
    height, width = input_size or weights.meta["min_size"]
    if architecture in ("googlenet", "inception_v3"):
        # They were trained on inputs in [-1, 1], but torchvision normalises their images like everyone's and the model
        # converts. It does so with random weights too, because the preprocessing is the same then.
        return {"aux_logits": False, "transform_input": True, "init_weights": random}
    if architecture.startswith("vgg"):
        return {"init_weights": random}
    if architecture.startswith("vit_"):
        if height != width:
            raise ValueError(f"torchvision's ViTs accept square images only, not {height}x{width}")
        return {"image_size": height}
    if architecture.startswith("maxvit_"):
        return {"input_size": (height, width)}
    return {}


class _HostArithmetic(TorchFunctionMode):
    """Compute the RegNets' widths on the CPU: torchvision reads them back, and the meta device holds no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange or (func is torch.tensor and isinstance(args[0], list)):
            kwargs = {"device": "cpu", **kwargs}
        return func(*args, **kwargs)


def _remove_classifier(module: nn.Module) -> tuple[int, str]:
    """Remove the classifier in place, so that images[N, 3, H, W] -> features[N, F], and return (F, removed module)."""
    if isinstance(module, models.SqueezeNet):
        # Its classifier is a convolution followed by the pooling; only the pooling stays.
        width: int = module.classifier[1].in_channels
        module.classifier = nn.AdaptiveAvgPool2d((1, 1))
        return width, "classifier"
    name, linear = _linears(module)[-1]
    module.set_submodule(name, nn.Identity())
    _remove_dropout_before(module, name)
    return linear.in_features, name


def _remove_hidden(module: nn.Module) -> tuple[int, str]:
    """Remove all of `classifier`, including its hidden layers, and return (F, removed module)."""
    _, first = next((name, linear) for name, linear in _linears(module) if name.startswith("classifier."))
    module.set_submodule("classifier", nn.Identity())
    return first.in_features, "classifier"


def _remove_dropout_before(module: nn.Module, name: str) -> None:
    # It belongs to the classifier. How much dropout comes before the new one is for the head to decide.
    parent_name, _, own_name = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    siblings = [sibling for sibling, _ in parent.named_children()]
    before = siblings.index(own_name) - 1
    if before >= 0 and isinstance(parent.get_submodule(siblings[before]), nn.Dropout):
        parent.set_submodule(siblings[before], nn.Identity())


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]


def _resampled(state: Mapping[str, Tensor], module: Any) -> Mapping[str, Tensor]:
    """Resample the position embeddings[1, 1 + grid², width] in `state` to the module's grid, with torchvision's code.

    Embeddings that cannot be resampled stay as they are, and loading them reports the mismatch.
    """
    try:
        # In float32 like the module, even if the file is float16. A copy, because interpolate_embeddings changes it.
        copy = OrderedDict({**state, _POSITIONS: state[_POSITIONS].float()})
        resampled: Mapping[str, Tensor] = interpolate_embeddings(module.image_size, module.patch_size, copy)
        return resampled
    except (KeyError, ValueError, RuntimeError):  # no position embeddings, or not of a square grid
        return state


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_current_name(name): tensor for name, tensor in state.items()}


def _current_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
