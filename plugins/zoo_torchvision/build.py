"""Builds a torchvision model without its classifier."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import zoo
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from zoo_torchvision.features import map_channels, map_of
from zoo_torchvision.groups import groups_of

if TYPE_CHECKING:
    from PIL.Image import Image

# In the published googlenet and inception_v3 files; torchvision drops them as well unless it is asked to keep them.
_AUXILIARY = ("aux1", "aux2", "AuxLogits")

# Names in published files that are older than today's modules, renamed as torchvision's own loaders do.
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
    """The architecture as those of its weights with this tag need it (None: the default ones), without classifier.

    Its map[N, C, H', W'] is what it pools; behind the map of AlexNet, VGG and MobileNetV3 come hidden layers too.

    Args:
        architecture: torchvision's name.
        tag: Name of a member of the architecture's weights enumeration.
        state: Tensors under torchvision's names, today's or older ones; None for random weights.
        input_size: (height, width) other than that of the weights. The ViTs and MaxViT are made for it, with the
            ViTs' position embeddings in `state` resampled; the others take the images as they come.

    Raises:
        LookupError: The installed torchvision has no such weights.
        ValueError: The architecture cannot be made for images of `input_size`.
        zoo.WeightsMismatch: `state` is not for this architecture.
    """
    if state is not None and torch.get_default_device().type == "meta":
        raise ValueError("the meta device holds no values: build there without a state")
    weights = _weights(architecture, tag)
    module = _with_classifier(architecture, weights, input_size, random=state is None)
    # torchvision gives no class names where a file's classifier is unusable (the features of VGG-16).
    features_only = weights.meta["categories"] is None
    width, removed = _remove_hidden(module) if features_only else _remove_classifier(module)
    if state is not None:
        ignore = (removed, *_AUXILIARY)
        offered: Mapping[str, Tensor] = _renamed(state)
        if input_size is not None and isinstance(module, models.VisionTransformer):
            offered = _resampled(offered, module)
        zoo.load_weights(module, offered, architecture=f"torchvision/{architecture}", ignore=ignore)
    return _described(architecture, module, width)


def _described(architecture: str, module: nn.Module, pooled: int) -> zoo.Backbone:
    groups = groups_of(architecture, module)
    run = map_of(module)
    if run is None:
        why = f"zoo does not know where torchvision's {type(module).__name__} pools"
        return zoo.Backbone(module=module, shape=zoo.FeatureShape(pooled=pooled), groups=groups, no_map=why)
    shape = zoo.FeatureShape(pooled=pooled, map=map_channels(module, pooled))
    return zoo.Backbone(module=module, shape=shape, groups=groups, map=run)


def reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    """torchvision's own transform, RGB image -> tensor[3, H, W], for the weights with this tag (None: the default)."""
    transform: Callable[[Image], Tensor] = _weights(architecture, tag).transforms()
    return transform


def _weights(architecture: str, tag: str | None) -> Any:
    known = models.get_model_weights(architecture)
    if tag is None:
        return known.DEFAULT
    if tag not in known.__members__:
        has = ", ".join(known.__members__)
        raise LookupError(f"the installed torchvision has no weights {tag!r} for {architecture}; it has: {has}")
    return known[tag]


def _with_classifier(architecture: str, weights: Any, input_size: tuple[int, int] | None, *, random: bool) -> nn.Module:
    arguments = _arguments(architecture, weights, input_size, random=random)
    # The meta device holds no values to draw, and still takes most of the building time for it.
    drawn = zoo.undrawn() if torch.get_default_device().type == "meta" else nullcontext()
    host = _HostArithmetic() if architecture.startswith("regnet") else nullcontext()
    with drawn, host:
        module: nn.Module = models.get_model(architecture, weights=None, **arguments)
    return module


def _arguments(architecture: str, weights: Any, input_size: tuple[int, int] | None, *, random: bool) -> dict[str, Any]:
    """What torchvision passes for these weights, and what spares initial values that are about to be overwritten."""
    height, width = input_size or weights.meta["min_size"]
    if architecture in ("googlenet", "inception_v3"):
        # They want [-1, 1] and take images normalised like everyone's: the model itself converts. Always, because
        # the preprocessing is that of the weights even where the weights are random.
        return {"aux_logits": False, "transform_input": True, "init_weights": random}
    if architecture.startswith("vgg"):
        return {"init_weights": random}
    if architecture.startswith("vit_"):
        if height != width:
            raise ValueError(f"torchvision's ViTs take square images, not {height}x{width}")
        return {"image_size": height}
    if architecture.startswith("maxvit_"):
        return {"input_size": (height, width)}
    return {}


class _HostArithmetic(TorchFunctionMode):
    """Keeps the regnets' computed widths off the default device: they are read back, and meta holds no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange or (func is torch.tensor and isinstance(args[0], list)):
            kwargs = {"device": "cpu", **kwargs}
        return func(*args, **kwargs)


def _remove_classifier(module: nn.Module) -> tuple[int, str]:
    """Returns (F, name of what was removed); afterwards images[N, 3, H, W] -> features[N, F]."""
    if isinstance(module, models.SqueezeNet):
        # Its classifier is a convolution before the pooling: the pooling stays.
        width: int = module.classifier[1].in_channels
        module.classifier = nn.AdaptiveAvgPool2d((1, 1))
        return width, "classifier"
    name, linear = _linears(module)[-1]
    module.set_submodule(name, nn.Identity())
    _remove_dropout_before(module, name)
    return linear.in_features, name


def _remove_hidden(module: nn.Module) -> tuple[int, str]:
    """The same, with the whole of `classifier` gone, its hidden layers included."""
    _, first = next((name, linear) for name, linear in _linears(module) if name.startswith("classifier."))
    module.set_submodule("classifier", nn.Identity())
    return first.in_features, "classifier"


def _remove_dropout_before(module: nn.Module, name: str) -> None:
    # It belongs to the classifier: how much dropout there is before the new one is the head's choice.
    parent_name, _, own_name = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    siblings = [sibling for sibling, _ in parent.named_children()]
    before = siblings.index(own_name) - 1
    if before >= 0 and isinstance(parent.get_submodule(siblings[before]), nn.Dropout):
        parent.set_submodule(siblings[before], nn.Identity())


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, each) for name, each in module.named_modules() if isinstance(each, nn.Linear)]


def _resampled(state: Mapping[str, Tensor], module: Any) -> Mapping[str, Tensor]:
    """The same with the position embeddings [1, 1 + grid ** 2, width] for the module's grid, by torchvision's own way.

    Those that cannot be resampled are left alone: loading then says what does not fit.
    """
    try:
        # In float32 even where the file is float16: the module is. A dictionary of its own, because it is changed.
        own = OrderedDict({**state, _POSITIONS: state[_POSITIONS].float()})
        resampled: Mapping[str, Tensor] = interpolate_embeddings(module.image_size, module.patch_size, own)
        return resampled
    except (KeyError, ValueError, RuntimeError):  # there are none, or not those of a square grid
        return state


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_today(name): tensor for name, tensor in state.items()}


def _today(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
