"""Heads and backbones that each do one thing wrong, by the name of the check that must find it; also a plugin.

A good one of each is changed in as little as the crime takes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional
from zoo.data.transform import transform
from zoo.testing import tiny_backbone
from zoo.testing.tiny_module import Tiny

WIDTH = 24


def _noise() -> float:
    """What no seed repeats."""
    return 1 + int.from_bytes(os.urandom(4), "big") / 2**32


class Head(nn.Module):
    """A good one."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.fc = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits


class OneLogitTooMany(Head):
    def forward(self, features: Tensor) -> Tensor:
        return functional.pad(self.fc(features), (0, 1))


class OneWidthOnly(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(WIDTH, classes)


class Doubles(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).double()


class SqueezesOne(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(0)


class Unused(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.forgotten = nn.Parameter(torch.zeros(3))


class Detached(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.detach())


class Reseeds(Head):
    def __init__(self, features: int, classes: int) -> None:
        torch.manual_seed(7)
        super().__init__(features, classes)


class OwnDice(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.fc.weight.data *= _noise()


class AlwaysDrops(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(functional.dropout(features, 0.5, training=True))


class BatchStatistics(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features - torch.linspace(0, 1, len(features))[:, None])


class Counts(Head):
    """What it learns is in no state dict."""

    seen = 0

    def forward(self, features: Tensor) -> Tensor:
        self.seen += self.training
        return super().forward(features) * (1 + self.seen)


class LooseTensor(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.prior = torch.zeros(classes)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + self.prior


class CountsWhileFrozen(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(features)


class Cancels(Head):
    """Two large numbers whose difference is the answer: in eight bits there is none."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features + 300) - super().forward(torch.full_like(features, 300))


class AsksTheData(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) if float(features.mean()) > -1e9 else features


@dataclass(frozen=True)
class WrongDefault:
    p: float = "half"  # type: ignore[assignment]


@dataclass(frozen=True)
class AnyType:
    p: Any = 0.5


def _summed(module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(module(features), targets, reduction="sum")


def _uphill(module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    return -functional.cross_entropy(module(features), targets)


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _speechless(*_: Any) -> nn.Module:
    raise Speechless


def _exits(*_: Any) -> nn.Module:
    sys.exit("no head today")


def _spec(name: str, module: type[nn.Module] = Head, **more: Any) -> zoo.HeadSpec:
    def build(shape: zoo.FeatureShape, classes: int, options: Any) -> nn.Module:
        return module(shape.pooled, classes)

    return zoo.HeadSpec(**{"name": name, "summary": "For a test.", "build": build, **more})


GOOD_HEAD = _spec("good")
HEADS: list[tuple[str, zoo.HeadSpec, str]] = [
    ("builds", _spec("exits", build=_exits), "SystemExit: no head today"),
    ("builds", _spec("speechless", build=_speechless), "it raised Speechless: its message cannot be read$"),
    ("builds", _spec("no-module", build=lambda *_: "a head"), "returned a str"),
    ("builds", _spec("no-summary", summary=" "), "summary"),
    ("options", _spec("wrong-default", options=WrongDefault), "the default of p: float is refused"),
    ("options", _spec("any-type", options=AnyType), "p: 0.5|p: its default 0.5 comes back from text as '0.5'"),
    ("shapes", _spec("one-too-many", OneLogitTooMany), r"\[2, 2\], got \[2, 3\]"),
    ("widths", _spec("one-width", OneWidthOnly), "mat1 and mat2"),
    ("dtype", _spec("doubles", Doubles), "gave torch.float64"),
    ("batch_of_one", _spec("squeezes", SqueezesOne), r"\[1, 5\], got \[5\]"),
    ("gradients", _spec("unused", Unused), "does not depend on forgotten"),
    ("gradients", _spec("detached", Detached), "no gradient reaches the features"),
    ("loss", _spec("summed", loss=_summed), "mean over the batch"),
    ("learns", _spec("uphill", loss=_uphill), "of 20 images"),
    ("determinism", _spec("reseeds", Reseeds), "sets torch's seed to 7"),
    ("determinism", _spec("own-dice", OwnDice), "fc.weight differs"),
    ("train_and_eval", _spec("always-drops", AlwaysDrops), "other logits the second time"),
    ("train_and_eval", _spec("batch-statistics", BatchStatistics), "depend on the others"),
    ("state_round_trip", _spec("counts", Counts), "is not in it"),
    ("device_move", _spec("loose-tensor", LooseTensor), "neither parameter nor buffer"),
    ("freezing", _spec("counts-while-frozen", CountsWhileFrozen), "changes its calls"),
    ("bf16", _spec("cancels", Cancels), "in bfloat16 the logits are others"),
    ("export", _spec("asks-the-data", AsksTheData), "it raised"),
]


class DoubleFeatures(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).double()


class SqueezesOneImage(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze(0)


class CutsGradients(Tiny):
    def map(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.stage3(self.stage2(self.stage1(self.stem(images).detach()))))
        return features


class RollsDice(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (_noise() if self.training else 1)


class DropsInEvaluation(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(super().forward(images), 0.5, training=True)


class CountsImages(Tiny):
    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += self.training
        return super().forward(images) * (1 + self.seen)


class LooseScale(Tiny):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = torch.ones(width)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.scale


class MovesItself(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        if self.norm.training or self.training:
            self.stem.conv.weight.data.mul_(0.999)
        return super().forward(images)


class CancelsFeatures(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        mixed = self.stem.conv(images + 3000) - self.stem.conv(torch.full_like(images, 3000))
        return mixed.mean((2, 3)) + super().forward(images)


class FloatOnly(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no bfloat16 here")
        return super().forward(images)


class AsksTheImages(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if float(images.mean()) > -1e9 else images


GOOD = tiny_backbone()


def _changed(module: type[Tiny] = Tiny, **fields: Any) -> Callable[..., zoo.Backbone]:
    def build(*, tag: str | None, state: Any) -> zoo.Backbone:
        good = GOOD.build(tag=tag, state=None)
        made = module(WIDTH)
        if state is not None:
            zoo.load_weights(made, state, architecture=GOOD.name)
        return replace(good, module=made, **fields)

    return build


def _deaf(*, tag: str | None, state: Any) -> zoo.Backbone:
    return GOOD.build(tag=tag, state=None)


def _fails(*, tag: str | None, state: Any) -> zoo.Backbone:
    raise RuntimeError("nobody home")


def _other_mean(tag: str | None) -> Callable[[Any], Tensor]:
    return lambda image: transform(image, replace(GOOD.preprocessing, mean=(0.4, 0.5, 0.5)))


FACTS = zoo.BackboneFacts(parameters=1, gmacs=0.0, pooled=WIDTH, map=None, groups=5, fixed_input=False)
WITHOUT_STEM = tuple(group for group in GOOD.build(tag=None, state=None).groups if group.name != "stem")
BACKBONES: dict[str, tuple[str, zoo.BackboneSpec, str]] = {
    "fails": ("builds", replace(GOOD, build=_fails), "RuntimeError: nobody home"),
    "wide": (
        "shapes",
        replace(GOOD, build=_changed(shape=zoo.FeatureShape(pooled=WIDTH + 1, map=WIDTH))),
        r"\[2, 25\], got \[2, 24\]",
    ),
    "doubles": ("dtype", replace(GOOD, build=_changed(DoubleFeatures)), "gave torch.float64"),
    "no_stem": ("groups", replace(GOOD, build=_changed(groups=WITHOUT_STEM)), "'stem.conv.weight' is in no group"),
    "boasts": ("facts", replace(GOOD, facts=FACTS), "parameters is 16536, stated 1|parameters is"),
    "squeezes": ("batch_of_one", replace(GOOD, build=_changed(SqueezesOneImage)), r"\[1, 24\], got \[24\]"),
    "cuts": ("gradients", replace(GOOD, build=_changed(CutsGradients)), "reaches the groups stem"),
    "dice": ("determinism", replace(GOOD, build=_changed(RollsDice)), "the features differ"),
    "drops": ("train_and_eval", replace(GOOD, build=_changed(DropsInEvaluation)), "other features the second time"),
    "deaf": ("state_round_trip", replace(GOOD, build=_deaf), "it has other features"),
    "loose": ("device_move", replace(GOOD, build=_changed(LooseScale)), "it raised"),
    "tinted": ("preprocessing", replace(GOOD, reference=_other_mean), "comes out differently"),
    "moves": ("freezing", replace(GOOD, build=_changed(MovesItself)), "the frozen backbone.stem.conv.weight changes"),
    "cancels": ("bf16", replace(GOOD, build=_changed(CancelsFeatures)), "in bfloat16 the features are others"),
    "asks": ("export", replace(GOOD, build=_changed(AsksTheImages)), "it raised"),
    "counts": ("", replace(GOOD, build=_changed(CountsImages)), ""),
    "float_only": ("", replace(GOOD, build=_changed(FloatOnly)), ""),
    "good": ("", GOOD, ""),
}


def _resolve(architecture: str) -> zoo.BackboneSpec:
    return replace(BACKBONES[architecture][1], provider="crimes", architecture=architecture)


@zoo.hookimpl
def zoo_backbones() -> Iterable[zoo.BackboneProvider]:
    return [
        zoo.BackboneProvider(
            name="crimes",
            summary="For tests.",
            architectures=lambda: dict.fromkeys([*BACKBONES, "lost"], ()),
            resolve=_resolve,
        )
    ]


@zoo.hookimpl
def zoo_heads() -> Iterable[zoo.HeadSpec]:
    return [GOOD_HEAD, *(spec for _, spec, _ in HEADS)]
