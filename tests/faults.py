"""Heads and backbones with one injected fault each, listed with the check that must find it. Also a plugin.

Each differs from a good head or backbone in its fault alone.
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
    """Return a number that differs in every call, whatever the seed."""
    return 1 + int.from_bytes(os.urandom(4), "big") / 2**32


class Head(nn.Module):
    """A linear head without a fault."""

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


class IgnoresTheSeed(Head):
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
    """What it learns is missing from its state dict."""

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
    """Subtracts two large numbers: with the eight bits of bfloat16, nothing of the difference is left."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features + 300) - super().forward(torch.full_like(features, 300))


class BranchesOnData(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) if float(features.mean()) > -1e9 else features


class Scales(Head):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * super().forward(features)


class TwoLayers(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.temper = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.temper


class WithoutBias(Head):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.fc = nn.Linear(features, classes, bias=False)


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


def _fc(module: nn.Module) -> nn.Linear:
    layer = module.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    return layer


GOOD_HEAD = _spec("good")
HEADS: list[tuple[str, zoo.HeadSpec, str]] = [
    ("builds", _spec("exits", build=_exits), "SystemExit: no head today"),
    ("builds", _spec("speechless", build=_speechless), "it raised Speechless: its message cannot be read$"),
    ("builds", _spec("no-module", build=lambda *_: "a head"), "returned a str"),
    ("builds", _spec("no-summary", summary=" "), "summary"),
    ("options", _spec("wrong-default", options=WrongDefault), "the default of p: float is refused as JSON"),
    ("options", _spec("any-type", options=AnyType), "p: default 0.5 is read back from text as '0.5'"),
    ("shapes", _spec("one-too-many", OneLogitTooMany), r"\[2, 2\], got \[2, 3\]"),
    ("widths", _spec("one-width", OneWidthOnly), "mat1 and mat2"),
    ("dtype", _spec("doubles", Doubles), "gave torch.float64"),
    ("batch_of_one", _spec("squeezes", SqueezesOne), r"\[1, 5\], got \[5\]"),
    ("gradients", _spec("unused", Unused), "does not depend on forgotten"),
    ("gradients", _spec("detached", Detached), "no gradient reaches the features"),
    ("loss", _spec("summed", loss=_summed), "mean over the batch"),
    ("learns", _spec("uphill", loss=_uphill), "of 20 images .* at least 16 are required"),
    ("determinism", _spec("reseeds", Reseeds), "sets torch's seed to 7"),
    ("determinism", _spec("ignores-the-seed", IgnoresTheSeed), "fc.weight differs"),
    ("train_and_eval", _spec("always-drops", AlwaysDrops), "different logits the second time"),
    ("train_and_eval", _spec("batch-statistics", BatchStatistics), "depend on the other images"),
    ("state_round_trip", _spec("counts", Counts), "the state lacks something that trains"),
    ("device_move", _spec("loose-tensor", LooseTensor), "neither a parameter nor a buffer"),
    ("freezing", _spec("counts-while-frozen", CountsWhileFrozen), "changes its calls"),
    ("linear", _spec("scales", Scales, linear=_fc), "not exactly those of the layer that linear returns"),
    ("linear", _spec("two-layers", TwoLayers, linear=_fc), "beside the layer that linear returns it has temper"),
    ("linear", _spec("without-bias", WithoutBias, linear=_fc), "must have a bias"),
    ("linear", _spec("no-layer", linear=lambda module: module), "must return an nn.Linear, returned a Head"),
    ("bf16", _spec("cancels", Cancels), "the logits in bfloat16 differ from float32's"),
    ("export", _spec("branches-on-data", BranchesOnData), "it raised"),
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


class IgnoresTheSeedInTraining(Tiny):
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


class BranchesOnImages(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if float(images.mean()) > -1e9 else images


class RunsItsStemTwice(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        if not images.is_meta:
            self.stem(images)
        return super().forward(images)


GOOD = tiny_backbone()


def _faulty(module: type[Tiny] = Tiny, **fields: Any) -> Callable[..., zoo.Backbone]:
    def build(*, tag: str | None, state: Any) -> zoo.Backbone:
        good = GOOD.build(tag=tag, state=None)
        faulty = module(WIDTH)
        if state is not None:
            zoo.load_weights(faulty, state, architecture=GOOD.name)
        return replace(good, module=faulty, **fields)

    return build


def _ignores_state(*, tag: str | None, state: Any) -> zoo.Backbone:
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
        replace(GOOD, build=_faulty(shape=zoo.FeatureShape(pooled=WIDTH + 1, map=WIDTH))),
        r"\[2, 25\], got \[2, 24\]",
    ),
    "runs_twice": (
        "layers",
        replace(GOOD, build=_faulty(RunsItsStemTwice)),
        "the output of the group stem, was called",
    ),
    "doubles": ("dtype", replace(GOOD, build=_faulty(DoubleFeatures)), "gave torch.float64"),
    "no_stem": ("groups", replace(GOOD, build=_faulty(groups=WITHOUT_STEM)), "'stem.conv.weight' is in no group"),
    "wrong_facts": ("facts", replace(GOOD, facts=FACTS), "parameters is 16536, stated 1"),
    "squeezes": ("batch_of_one", replace(GOOD, build=_faulty(SqueezesOneImage)), r"\[1, 24\], got \[24\]"),
    "cuts_gradients": ("gradients", replace(GOOD, build=_faulty(CutsGradients)), "reaches the groups stem"),
    "ignores_seed": (
        "determinism",
        replace(GOOD, build=_faulty(IgnoresTheSeedInTraining)),
        "the features differ",
    ),
    "drops": (
        "train_and_eval",
        replace(GOOD, build=_faulty(DropsInEvaluation)),
        "different features the second time",
    ),
    "ignores_state": ("state_round_trip", replace(GOOD, build=_ignores_state), "it gives different features"),
    "loose": ("device_move", replace(GOOD, build=_faulty(LooseScale)), "it raised"),
    "other_mean": ("preprocessing", replace(GOOD, reference=_other_mean), "is preprocessed differently"),
    "moves": (
        "freezing",
        replace(GOOD, build=_faulty(MovesItself)),
        "the frozen backbone.stem.conv.weight changes",
    ),
    "cancels": (
        "bf16",
        replace(GOOD, build=_faulty(CancelsFeatures)),
        "the features in bfloat16 differ from float32's",
    ),
    "branches": ("export", replace(GOOD, build=_faulty(BranchesOnImages)), "it raised"),
    "counts": ("", replace(GOOD, build=_faulty(CountsImages)), ""),
    "float_only": ("", replace(GOOD, build=_faulty(FloatOnly)), ""),
    "good": ("", GOOD, ""),
}


def _resolve(architecture: str) -> zoo.BackboneSpec:
    return replace(BACKBONES[architecture][1], provider="faults", architecture=architecture)


@zoo.hookimpl
def zoo_backbones() -> Iterable[zoo.BackboneProvider]:
    return [
        zoo.BackboneProvider(
            name="faults",
            summary="For tests.",
            architectures=lambda: dict.fromkeys([*BACKBONES, "lost"], ()),
            resolve=_resolve,
        )
    ]


@zoo.hookimpl
def zoo_heads() -> Iterable[zoo.HeadSpec]:
    return [GOOD_HEAD, *(spec for _, spec, _ in HEADS)]
