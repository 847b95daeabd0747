"""Build timm's models without their classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zoo
from torch import Tensor, nn

from zoo_timm.features import feature_map, feature_width, map_width, mean_over_positions, no_map
from zoo_timm.groups import find_groups
from zoo_timm.weights import create, create_with_weights


def build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    """Build timm's model without its classifier, as its weights `tag` need it.

    Args:
        architecture: timm's name.
        tag: Tag of the weights; None if the architecture has none.
        state: Tensors by the names in timm's files; None for random weights.
        input_size: (height, width), if other than that of the weights. Position embeddings and windows are built for
            it, and timm resamples those in `state`.

    Raises:
        zoo.WeightsMismatch: `state`, after timm's own conversion, is not for this architecture.
    """
    name = f"{architecture}.{tag}" if tag else architecture
    module = _module(name, state, input_size)
    compute_map = feature_map(module)
    shape = zoo.FeatureShape(pooled=feature_width(module), map=map_width(module) if compute_map else None)
    parts: dict[str, Any] = {"module": module, "shape": shape, "groups": find_groups(module), "map": compute_map}
    # Encoders have no classifier and do not pool their output themselves.
    if not hasattr(module, "get_classifier"):
        parts["pool"] = mean_over_positions
    checkpointing = _set_checkpointing if _supports_checkpointing(module) else None
    return zoo.Backbone(**parts, no_map=no_map(module), checkpointing=checkpointing)


def _set_checkpointing(module: Any, on: bool) -> None:
    module.set_grad_checkpointing(on)


def _supports_checkpointing(module: nn.Module) -> bool:
    # Having the method says nothing: encoders lack it, and some architectures have it and assert that it stays off.
    try:
        _set_checkpointing(module, True)
        _set_checkpointing(module, False)
    except Exception:
        return False
    return True


def _module(name: str, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None) -> nn.Module:
    if input_size is not None:
        try:
            return _create(name, state, img_size=input_size)
        except TypeError as error:
            # Models that accept any size do not have this argument.
            if "img_size" not in str(error):
                raise
    return _create(name, state)


def _create(name: str, state: Mapping[str, Tensor] | None, **arguments: Any) -> nn.Module:
    return create(name, **arguments) if state is None else create_with_weights(name, state, **arguments)
