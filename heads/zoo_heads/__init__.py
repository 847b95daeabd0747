"""The bundled heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class DropoutLinearOptions:
    """Options of `dropout_linear`."""

    p: float = 0.2
    """Probability that a feature is zeroed in training."""

    def __post_init__(self) -> None:
        _check_probability(self.p)


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpOptions:
    """Options of `mlp`."""

    hidden: int = 512
    """Width of the hidden layer."""
    p: float = 0.2
    """Probability that a hidden unit is zeroed in training."""

    def __post_init__(self) -> None:
        _check_probability(self.p)
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")


def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"p must be at least 0 and below 1, got {p}")


def _linear(shape: zoo.FeatureShape, classes: int, options: zoo.NoOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(_modules(fc=nn.Linear(shape.pooled, classes)))


def _dropout_linear(shape: zoo.FeatureShape, classes: int, options: DropoutLinearOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(_modules(dropout=nn.Dropout(options.p), fc=nn.Linear(shape.pooled, classes)))


def _mlp(shape: zoo.FeatureShape, classes: int, options: MlpOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(
        _modules(
            hidden=nn.Linear(shape.pooled, options.hidden),
            activation=nn.GELU(),
            dropout=nn.Dropout(options.p),
            fc=nn.Linear(options.hidden, classes),
        )
    )


def _modules(**modules: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(modules)


@zoo.hookimpl
def zoo_heads() -> Iterable[zoo.HeadSpec]:
    return [
        zoo.HeadSpec(name="linear", summary="One linear layer: the linear probe.", build=_linear),
        zoo.HeadSpec(
            name="dropout_linear",
            summary="Dropout, then one linear layer: torchvision's and Keras's usual head.",
            build=_dropout_linear,
            options=DropoutLinearOptions,
            references=("https://jmlr.org/papers/v15/srivastava14a.html",),
        ),
        zoo.HeadSpec(
            name="mlp",
            summary="One hidden layer (GELU, dropout), for classes that a line cannot part.",
            build=_mlp,
            options=MlpOptions,
            references=("arXiv:1606.08415",),
        ),
    ]
