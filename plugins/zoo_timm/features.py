"""What a timm model gives a head: pooled features, and the map from which they are pooled.

timm's `forward_features` returns NCHW, NHWC, or tokens with or without prefix tokens (class, register, distillation);
here all become map[N, C, H, W]. `num_features` is C in nearly every architecture, which the support matrix measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Mapped = Callable[[Any, Tensor], Tensor]
"""(module, images[N, 3, H, W]) -> map[N, C, H', W']"""

# Its class token counts as no prefix to timm.
_WITH_CLASS_TOKEN = ("CoaT",)
_SEVERAL = ("EfficientViM", "EfficientViMDistilled")
_NO_MAP = {"CrossVit": "its two branches have grids of different sizes"}


def feature_width(module: nn.Module) -> int:
    """F of the pooled features[N, F]."""
    width = getattr(module, "head_hidden_size", None) or module.num_features
    assert isinstance(width, int)
    return width


def map_width(module: nn.Module) -> int:
    """C of the map[N, C, H, W]."""
    described: Any = module
    # EfficientViM counts the hidden states of its stages as well.
    several = type(module).__name__ in _SEVERAL
    width = described.feature_info[-1]["num_chs"] if several else described.num_features
    assert isinstance(width, int)
    return width


def mean_over_positions(module: nn.Module, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> features[N, F] of an encoder that returns tokens[N, L, F] or a map[N, F, H', W']."""
    features: Tensor = module(images)
    return features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))


def no_map(module: nn.Module) -> str:
    """Why the model has no map; empty where it has one."""
    return _NO_MAP.get(type(module).__name__, "")


def feature_map(module: nn.Module) -> Mapped | None:
    """What computes the model's map; None where it has none."""
    if no_map(module):
        return None
    mapped: Mapped = _BY_CLASS.get(type(module).__name__, _from_features)
    return mapped


def _from_features(module: Any, images: Tensor) -> Tensor:
    return _as_map(module, module.forward_features(images), images)


def _as_map(module: Any, features: Tensor, images: Tensor) -> Tensor:
    if features.ndim == 3:
        return _grid(features[:, _prefix_tokens(module) :], images)
    return features.permute(0, 3, 1, 2) if getattr(module, "output_fmt", "NCHW") == "NHWC" else features


def _prefix_tokens(module: Any) -> int:
    """How many tokens before those of the grid."""
    if type(module).__name__ in _WITH_CLASS_TOKEN:
        return 1
    count: int = getattr(module, "num_prefix_tokens", 0)
    return count


def _grid(tokens: Tensor, images: Tensor) -> Tensor:
    """tokens[N, L, C] in reading order -> map[N, C, H, W] with H / W as the images have it."""
    count, length, channels = tokens.shape
    height, width = images.shape[-2:]
    rows = max(1, round(math.sqrt(length * height / width)))
    if length % rows:
        raise ValueError(f"{length} tokens are no grid over an image of {height}x{width}")
    return tokens.transpose(1, 2).reshape(count, channels, rows, length // rows)


def _coat(module: Any, images: Tensor) -> Tensor:
    """The coarsest of CoaT's scales."""
    features = module.forward_features(images)
    return _as_map(module, features[-1] if isinstance(features, list) else features, images)


def _efficientvim(module: Any, images: Tensor) -> Tensor:
    """The last of several, tokens[N, C, L]; the ones before are the stages' hidden states."""
    return _grid(module.forward_features(images)[-1].transpose(1, 2), images)


def _hiera(module: Any, images: Tensor) -> Tensor:
    """Hiera keeps the tokens of a window together; timm's own `reroll` puts them in reading order."""
    tokens = module.reroll(module.forward_features(images), module.stage_ends[-1])
    return tokens.permute(0, 3, 1, 2) if tokens.ndim == 4 else _grid(tokens, images)


def _pit(module: Any, images: Tensor) -> Tensor:
    """PiT's `forward_features` returns the class token alone."""
    maps: list[Tensor] = module.forward_intermediates(images, indices=1, intermediates_only=True)
    return maps[-1]


def _before_class_attention(module: Any, images: Tensor) -> Tensor:
    """CaiT, VOLO and XCiT end in blocks that work for the class token alone: they are behind the map."""
    maps: list[Tensor] = module.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
    return maps[-1]


_BY_CLASS: dict[str, Mapped] = {
    "CoaT": _coat,
    **dict.fromkeys(_SEVERAL, _efficientvim),
    "Hiera": _hiera,
    "PoolingVisionTransformer": _pit,
    **dict.fromkeys(("Cait", "VOLO", "Xcit"), _before_class_attention),
}
