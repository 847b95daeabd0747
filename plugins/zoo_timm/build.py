"""Builds timm's models without their classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import timm
import zoo
from torch import Tensor, nn

from zoo_timm.groups import groups
from zoo_timm.weights import built_with


def build(architecture: str, *, tag: str | None, state: Mapping[str, Tensor] | None) -> zoo.Backbone:
    """timm's model as it is made for the weights `tag`, with the weights in `state` or with random ones.

    Raises zoo.WeightsMismatch where `state`, after timm's own conversion, is not exactly what the model needs.
    """
    name = f"{architecture}.{tag}" if tag else architecture
    module = timm.create_model(name, num_classes=0) if state is None else built_with(name, state)
    shape = zoo.FeatureShape(pooled=feature_width(module))
    if hasattr(module, "get_classifier"):
        return zoo.Backbone(module=module, shape=shape, groups=groups(module))
    return zoo.Backbone(module=module, shape=shape, groups=groups(module), pool=mean_over_positions)


def feature_width(module: nn.Module) -> int:
    """F of the pooled features[N, F]."""
    width = getattr(module, "head_hidden_size", None) or module.num_features
    assert isinstance(width, int)
    return width


def mean_over_positions(module: nn.Module, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> features[N, F] of an encoder that returns tokens[N, L, F] or a map[N, F, H', W']."""
    features: Tensor = module(images)
    return features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))
