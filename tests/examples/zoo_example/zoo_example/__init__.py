"""A plugin as a third party writes it: one head with an option and its own loss, one recipe, one data source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import zoo

from zoo_example.flat import zoo_data_sources as zoo_data_sources

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledLinearOptions:
    """Options of `scaled_linear`."""

    scale: float = 2.0
    """Factor that multiplies every logit, above 0."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")


def _scaled_linear(shape: zoo.FeatureShape, classes: int, options: ScaledLinearOptions) -> nn.Module:
    from zoo_example.modules import ScaledLinear

    return ScaledLinear(shape.pooled, classes, options.scale)


def _smoothed(module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    """features[N, F], targets[N] -> cross-entropy with smoothed labels, a scalar."""
    from torch.nn import functional

    return functional.cross_entropy(module(features), targets, label_smoothing=0.1)


@zoo.hookimpl
def zoo_heads() -> Iterable[zoo.HeadSpec]:
    return [
        zoo.HeadSpec(
            name="scaled_linear",
            summary="One linear layer whose logits are scaled; trained with smoothed labels.",
            build=_scaled_linear,
            options=ScaledLinearOptions,
            loss=_smoothed,
        )
    ]


@zoo.hookimpl
def zoo_recipes() -> Iterable[zoo.RecipeSpec]:
    text = files(__name__).joinpath("gentle.toml").read_text("utf-8")
    return [zoo.recipe_from_toml(text, name="gentle")]
