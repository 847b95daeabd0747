"""Builds timm's models without their classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zoo
from torch import Tensor, nn

from zoo_timm.features import feature_map, feature_width, map_width, mean_over_positions, no_map
from zoo_timm.groups import groups
from zoo_timm.weights import built_with, created


def build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    """timm's model as it is made for the weights `tag`, with the weights in `state` or with random ones.

    For another `input_size` (height, width), position embeddings and windows are made for it, and timm resamples those
    in `state`. Raises zoo.WeightsMismatch where `state`, after timm's own conversion, is not what the model needs.
    """
    name = f"{architecture}.{tag}" if tag else architecture
    module = _module(name, state, input_size)
    mapped = feature_map(module)
    shape = zoo.FeatureShape(pooled=feature_width(module), map=map_width(module) if mapped else None)
    parts: dict[str, Any] = {"module": module, "shape": shape, "groups": groups(module), "map": mapped}
    if not hasattr(module, "get_classifier"):
        parts["pool"] = mean_over_positions
    return zoo.Backbone(**parts, no_map=no_map(module), checkpointing=_switch if _has_switch(module) else None)


def _switch(module: Any, on: bool) -> None:
    module.set_grad_checkpointing(on)


def _has_switch(module: nn.Module) -> bool:
    """Some of timm's architectures have the method and refuse to be switched on."""
    try:
        _switch(module, True)
        _switch(module, False)
    except Exception:  # encoders lack the method, others assert that it stays off
        return False
    return True


def _module(name: str, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None) -> nn.Module:
    if input_size is not None:
        try:
            return _made(name, state, img_size=input_size)
        except TypeError as error:
            # Models that take any size as it is do not know the argument.
            if "img_size" not in str(error):
                raise
    return _made(name, state)


def _made(name: str, state: Mapping[str, Tensor] | None, **arguments: Any) -> nn.Module:
    return created(name, **arguments) if state is None else built_with(name, state, **arguments)
