"""The bundled heads: names, options, when to use them. Importing this module imports no torch."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import zoo

if TYPE_CHECKING:
    from torch import Tensor, nn

Metric = Literal["cosine", "euclidean"]

_MAX_DEFAULT_HEADS = 8
_MAX_LISTED_HEADS = 16


@dataclass(frozen=True, kw_only=True)
class DropoutLinearOptions:
    """Options of `dropout_linear`."""

    p: float = 0.2
    """Probability that a feature is zeroed in training."""

    def __post_init__(self) -> None:
        _check_probability(self.p)


@dataclass(frozen=True, kw_only=True)
class MlpOptions:
    """Options of `mlp`."""

    hidden: int = 512
    """Width of the hidden layer."""
    p: float = 0.2
    """Probability that a hidden unit is zeroed in training."""

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)
        _check_probability(self.p)


@dataclass(frozen=True, kw_only=True)
class ConcatPoolOptions:
    """Options of `concat_pool`, with fastai's defaults."""

    hidden: int = 512
    """Width of the hidden layer."""
    p: float = 0.5
    """Probability that a hidden unit is zeroed in training. Pooled features are zeroed with half of it."""

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)
        _check_probability(self.p)


@dataclass(frozen=True, kw_only=True)
class GemOptions:
    """Options of `gem`."""

    p: float = 3.0
    """Initial value of the learned exponent, above 0. 1 is the mean; larger values approach the maximum."""

    def __post_init__(self) -> None:
        _check_positive("p", self.p)


@dataclass(frozen=True, kw_only=True)
class AttentionPoolOptions:
    """Options of `attention_pool`."""

    heads: int | None = None
    """Number of attention heads. It must divide the map's channels. None: the largest divisor up to 8."""
    p: float = 0.0
    """Probability that a pooled feature is zeroed in training."""

    def __post_init__(self) -> None:
        if self.heads is not None and not self.heads >= 1:
            raise ValueError(f"heads must be at least 1, got {self.heads}")
        _check_probability(self.p)


@dataclass(frozen=True, kw_only=True)
class CosineOptions:
    """Options of `cosine`."""

    scale: float = 10.0
    """Initial value of the learned factor that multiplies the cosines, above 0."""

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class ArcFaceOptions:
    """Options of `arcface`, with the paper's defaults."""

    margin: float = 0.5
    """Radians added to the angle to the true class in training. On a frozen backbone 0.2 works better, because features
    that do not train cannot move apart by the full margin."""
    scale: float = 64.0
    """Fixed factor that multiplies the cosines, above 0."""

    def __post_init__(self) -> None:
        # From pi/2 on, even a feature in the direction of its class's weights would get a negative cosine.
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"margin must be at least 0 and below pi/2 (1.5708), got {self.margin}")
        _check_positive("scale", self.scale)


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions:
    """Options of `prototype`."""

    metric: Metric = "cosine"
    """How a feature, scaled to length 1, is compared with a class mean: by the angle or by the squared distance."""
    scale: float = 30.0
    """Factor of the logits, above 0. A larger one gives more confident probabilities and the same predictions. With 30,
    confidence roughly matched accuracy on SqueezeNet's features of flowers and insects."""

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {self.metric!r}")
        _check_positive("scale", self.scale)


# The comparisons are written so that nan fails them.
def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"p must be at least 0 and below 1, got {p}")


def _check_hidden(hidden: int) -> None:
    if not hidden >= 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _linear(shape: zoo.FeatureShape, classes: int, options: zoo.NoOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(_modules(fc=nn.Linear(shape.pooled, classes)))


def _dropout_linear(shape: zoo.FeatureShape, classes: int, options: DropoutLinearOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(_modules(dropout=nn.Dropout(options.p), fc=nn.Linear(shape.pooled, classes)))


def _layers(shape: zoo.FeatureShape, classes: int, options: zoo.NoOptions) -> nn.Module:
    from torch import nn

    return nn.Sequential(_modules(fc=nn.Linear(shape.pooled + sum(_widths(shape)), classes)))


def _layer(module: nn.Module) -> nn.Linear:
    """The layer that the logits of `linear`, `dropout_linear` and `layers` come from."""
    from torch import nn

    layer = module.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    return layer


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


def _concat_pool(shape: zoo.FeatureShape, classes: int, options: ConcatPoolOptions) -> nn.Module:
    from torch import nn

    from zoo_heads.modules import ConcatPool

    pooled = 2 * _channels(shape)
    # The layers of fastai's create_head in its order. None of its linear layers has a bias, not even the last.
    return nn.Sequential(
        _modules(
            pool=ConcatPool(),
            norm=nn.BatchNorm1d(pooled),
            dropout=nn.Dropout(options.p / 2),
            hidden=nn.Linear(pooled, options.hidden, bias=False),
            activation=nn.ReLU(),
            hidden_norm=nn.BatchNorm1d(options.hidden),
            hidden_dropout=nn.Dropout(options.p),
            fc=nn.Linear(options.hidden, classes, bias=False),
        )
    )


def _gem(shape: zoo.FeatureShape, classes: int, options: GemOptions) -> nn.Module:
    from torch import nn

    from zoo_heads.modules import GeneralisedMeanPool

    return nn.Sequential(_modules(pool=GeneralisedMeanPool(options.p), fc=nn.Linear(_channels(shape), classes)))


def _attention_pool(shape: zoo.FeatureShape, classes: int, options: AttentionPoolOptions) -> nn.Module:
    from torch import nn

    from zoo_heads.modules import AttentionPool

    channels = _channels(shape)
    return nn.Sequential(
        _modules(
            pool=AttentionPool(channels, _attention_heads(channels, options.heads)),
            dropout=nn.Dropout(options.p),
            fc=nn.Linear(channels, classes),
        )
    )


def _attention_heads(channels: int, heads: int | None) -> int:
    if heads is None:
        return max(_divisors(channels, _MAX_DEFAULT_HEADS))
    if channels % heads:
        valid = ", ".join(map(str, _divisors(channels, _MAX_LISTED_HEADS)))
        raise ValueError(
            f"heads must divide the map's {channels} channels, got {heads}; up to {_MAX_LISTED_HEADS} these do: {valid}"
        )
    return heads


def _divisors(number: int, largest: int) -> list[int]:
    return [divisor for divisor in range(1, largest + 1) if number % divisor == 0]


def _cosine(shape: zoo.FeatureShape, classes: int, options: CosineOptions) -> nn.Module:
    from zoo_heads.modules import CosineClassifier

    return CosineClassifier(shape.pooled, classes, options.scale)


def _arcface(shape: zoo.FeatureShape, classes: int, options: ArcFaceOptions) -> nn.Module:
    from zoo_heads.modules import ArcFace

    return ArcFace(shape.pooled, classes, options.margin, options.scale)


def _arcface_loss(module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    """features[N, F], targets[N] -> the mean loss, a scalar."""
    from zoo_heads.modules import ArcFace

    assert isinstance(module, ArcFace)
    return module.loss(features, targets)


def _prototype(shape: zoo.FeatureShape, classes: int, options: PrototypeOptions) -> nn.Module:
    from zoo_heads.modules import NearestClassMean

    return NearestClassMean(shape.pooled, classes, options.metric, options.scale)


def _fit_prototype(module: nn.Module, features: Tensor, targets: Tensor) -> None:
    """Compute the class means of features[N, F] with targets[N]."""
    from zoo_heads.modules import NearestClassMean

    assert isinstance(module, NearestClassMean)
    module.fit(features, targets)


def _widths(shape: zoo.FeatureShape) -> tuple[int, ...]:
    assert shape.layers is not None, "zoo builds no head that needs layers without their widths"
    return shape.layers


def _channels(shape: zoo.FeatureShape) -> int:
    assert shape.map is not None, "zoo builds no head that needs a map on a backbone without one"
    return shape.map


def _modules(**modules: nn.Module) -> OrderedDict[str, nn.Module]:
    # Names instead of numbers: they are the keys of saved state dicts, which must never change.
    return OrderedDict(modules)


@zoo.hookimpl
def zoo_heads() -> Iterable[zoo.HeadSpec]:
    return [
        zoo.HeadSpec(name="linear", summary="One linear layer: the linear probe.", build=_linear, linear=_layer),
        zoo.HeadSpec(
            name="dropout_linear",
            summary="Dropout, then one linear layer: torchvision's and Keras's usual head.",
            build=_dropout_linear,
            options=DropoutLinearOptions,
            linear=_layer,
            references=("https://jmlr.org/papers/v15/srivastava14a.html",),
        ),
        zoo.HeadSpec(
            name="mlp",
            summary="One hidden layer (GELU, dropout): for classes that are not linearly separable.",
            build=_mlp,
            options=MlpOptions,
            references=("arXiv:1606.08415",),
        ),
        zoo.HeadSpec(
            name="layers",
            summary="One linear layer on the pooled features and on the mean of every group's output.",
            build=_layers,
            needs="layers",
            linear=_layer,
            references=("arXiv:2201.03529",),
        ),
        zoo.HeadSpec(
            name="concat_pool",
            summary="Mean and max pooling, batch norm, a hidden layer: fastai's head, to train with the backbone.",
            build=_concat_pool,
            needs="map",
            options=ConcatPoolOptions,
            references=("arXiv:2002.04688",),
        ),
        zoo.HeadSpec(
            name="gem",
            summary="Learned pooling between mean and maximum, then linear: for small objects in maps after a ReLU.",
            build=_gem,
            needs="map",
            options=GemOptions,
            references=("arXiv:1711.02512",),
        ),
        zoo.HeadSpec(
            name="attention_pool",
            summary="A learned query weights the positions, then linear: for token maps and for small objects.",
            build=_attention_pool,
            needs="map",
            options=AttentionPoolOptions,
            references=("arXiv:2106.04560", "arXiv:1810.00825"),
        ),
        zoo.HeadSpec(
            name="cosine",
            summary="Cosine to each class's weights, learned scale: for few images per class, or imbalanced classes.",
            build=_cosine,
            options=CosineOptions,
            references=("arXiv:1804.09458", "arXiv:1712.07136"),
        ),
        zoo.HeadSpec(
            name="arcface",
            summary="Angular margin in training: for many similar classes, with a backbone that trains too.",
            build=_arcface,
            options=ArcFaceOptions,
            loss=_arcface_loss,
            references=("arXiv:1801.07698",),
        ),
        zoo.HeadSpec(
            name="prototype",
            summary="Nearest class mean, computed, not trained: for a handful of images per class, or as a baseline.",
            build=_prototype,
            options=PrototypeOptions,
            fit=_fit_prototype,
            references=("https://doi.org/10.1109/TPAMI.2013.83", "arXiv:1703.05175"),
        ),
    ]
