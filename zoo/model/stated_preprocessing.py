"""The preprocessing that a module states about its own weights, as timm's models do in `pretrained_cfg`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.errors import OptionError
from zoo.specs.preprocessing import Preprocessing

_RESIZE = {"center": "cover", "squash": "exact", "border": "longest"}
_CROP_PCT = 0.875
"""What timm takes where a model states none."""


def stated_preprocessing(module: nn.Module, label: str) -> Preprocessing | None:
    """What timm's evaluation transform does for a model of timm's; None for a module that states nothing.

    Raises OptionError, which names the module by `label`, where what it states cannot be.
    """
    stated = getattr(module, "pretrained_cfg", None)
    if not isinstance(stated, Mapping) or not {"input_size", "mean", "std"} <= stated.keys():
        return None
    try:
        return _from_timm(stated)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"The pretrained_cfg of the module {label} states a preprocessing that cannot be: {error}.\n"
            "Next: preprocessing=zoo.Preprocessing(...), with the numbers that the module was trained with."
        ) from error


def _from_timm(stated: Mapping[str, Any]) -> Preprocessing:
    channels, height, width = stated["input_size"]
    share = stated.get("crop_pct") or _CROP_PCT
    # Rounded down, as timm does.
    target = (math.floor(height / share), math.floor(width / share))
    # timm takes any other crop mode as `center`, too.
    resize: Any = _RESIZE.get(stated.get("crop_mode") or "center", "cover")
    # timm has two ways as well, and they round the longer side differently.
    if resize == "cover" and target[0] == target[1]:
        resize = "shorter"
    red, green, blue = (round(255 * value) if resize == "longest" else 0 for value in stated["mean"])
    return Preprocessing(
        input_size=(channels, height, width),
        resize_size=target,
        mean=tuple(stated["mean"]),
        std=tuple(stated["std"]),
        interpolation=stated.get("interpolation") or "bicubic",
        resize=resize,
        fill=(red, green, blue),
    )
