"""The pooled features of a timm model, and its map: the features right before pooling.

timm's `forward_features` returns NCHW, NHWC, or tokens with or without prefix tokens (class, register, distillation).
Here all become map[N, C, H, W]. `num_features` is C in nearly every architecture; the support matrix checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

MapFunction = Callable[[Any, Tensor], Tensor]
"""(module, images[N, 3, H, W]) -> map[N, C, H', W']"""

# CoaT has a class token, but timm does not count it as a prefix token.
_WITH_CLASS_TOKEN = ("CoaT",)
# EfficientViM returns several feature maps and counts the hidden states of its stages too.
_SEVERAL_OUTPUTS = ("EfficientViM", "EfficientViMDistilled")
_NO_MAP = {"CrossVit": "its two branches have grids of different sizes"}


def feature_width(module: nn.Module) -> int:
    """Return F of the pooled features[N, F]."""
    width = getattr(module, "head_hidden_size", None) or module.num_features
    assert isinstance(width, int)
    return width


def map_width(module: nn.Module) -> int:
    """Return C of the map[N, C, H, W]."""
    model: Any = module
    several = type(module).__name__ in _SEVERAL_OUTPUTS
    width = model.feature_info[-1]["num_chs"] if several else model.num_features
    assert isinstance(width, int)
    return width


def mean_over_positions(module: nn.Module, images: Tensor) -> Tensor:
    """Pool an encoder that returns tokens[N, L, F] or a map[N, F, H', W']: images[N, 3, H, W] -> features[N, F]."""
    features: Tensor = module(images)
    return features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))


def no_map(module: nn.Module) -> str:
    """Return why the model has no map, or an empty text if it has one."""
    return _NO_MAP.get(type(module).__name__, "")


def feature_map(module: nn.Module) -> MapFunction | None:
    """Return the function that computes the model's map, or None if it has none."""
    return None if no_map(module) else _BY_CLASS.get(type(module).__name__, _from_features)


def _from_features(module: Any, images: Tensor) -> Tensor:
    return _as_map(module, module.forward_features(images), images)


def _as_map(module: Any, features: Tensor, images: Tensor) -> Tensor:
    if features.ndim == 3:
        return _grid(features[:, _prefix_tokens(module) :], images)
    return features.permute(0, 3, 1, 2) if getattr(module, "output_fmt", "NCHW") == "NHWC" else features


def _prefix_tokens(module: Any) -> int:
    """Return how many tokens come before those of the grid."""
    if type(module).__name__ in _WITH_CLASS_TOKEN:
        return 1
    count: int = getattr(module, "num_prefix_tokens", 0)
    return count


def _grid(tokens: Tensor, images: Tensor) -> Tensor:
    """tokens[N, L, C] row by row -> map[N, C, H, W], with the aspect ratio of images[N, 3, H, W]."""
    count, length, channels = tokens.shape
    height, width = images.shape[-2:]
    rows = max(1, round(math.sqrt(length * height / width)))
    if length % rows:
        raise ValueError(f"{length} tokens form no grid over an image of {height}x{width}")
    return tokens.transpose(1, 2).reshape(count, channels, rows, length // rows)


def _coat(module: Any, images: Tensor) -> Tensor:
    """Use the coarsest of CoaT's scales."""
    features = module.forward_features(images)
    return _as_map(module, features[-1] if isinstance(features, list) else features, images)


def _efficientvim(module: Any, images: Tensor) -> Tensor:
    """Use the last output, tokens[N, C, L]; those before are the hidden states of the stages."""
    return _grid(module.forward_features(images)[-1].transpose(1, 2), images)


def _hiera(module: Any, images: Tensor) -> Tensor:
    """Put the tokens, which Hiera keeps together per window, row by row with timm's own `reroll`."""
    tokens = module.reroll(module.forward_features(images), module.stage_ends[-1])
    return tokens.permute(0, 3, 1, 2) if tokens.ndim == 4 else _grid(tokens, images)


def _pit(module: Any, images: Tensor) -> Tensor:
    """Use the last intermediate: PiT's `forward_features` returns the class token alone."""
    maps: list[Tensor] = module.forward_intermediates(images, indices=1, intermediates_only=True)
    return maps[-1]


def _before_class_attention(module: Any, images: Tensor) -> Tensor:
    """Leave out the last blocks of CaiT, VOLO and XCiT, which change the class token alone."""
    maps: list[Tensor] = module.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
    return maps[-1]


_BY_CLASS: dict[str, MapFunction] = {
    "CoaT": _coat,
    **dict.fromkeys(_SEVERAL_OUTPUTS, _efficientvim),
    "Hiera": _hiera,
    "PoolingVisionTransformer": _pit,
    **dict.fromkeys(("Cait", "VOLO", "Xcit"), _before_class_attention),
}
