"""What zoo relies on in a head, one check each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, ZooError, first_line
from zoo.model.model import HEAD, ZooModel
from zoo.options import build_options, describe_options, options_to_dict
from zoo.specs import FeatureShape, HeadSpec
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import SEED, Fault, Skip, Step
from zoo.testing.tiny import SIDE, SPEC, WIDTH

# Two widths, so that a head that takes the wrong one cannot run.
_CHANNELS = 16
_SHAPE = FeatureShape(pooled=24, map=_CHANNELS)
_CLASSES = 5
_GRID = (4, 6)
_IMAGES = 10
_STEPS = 40


@dataclass(frozen=True)
class HeadTrial:
    """A head under test."""

    spec: HeadSpec

    @cached_property
    def options(self) -> Any:
        return self.spec.options()

    def build(self, *, seed: int = SEED, shape: FeatureShape = _SHAPE, classes: int = _CLASSES) -> nn.Module:
        torch.manual_seed(seed)
        return self.spec.build(shape, classes, self.options)

    def features(self, images: int, *, grid: tuple[int, int] = _GRID, seed: int = 0) -> Tensor:
        """What a backbone would give it: never negative, as behind a ReLU."""
        generator = torch.Generator().manual_seed(1000 * images + seed)
        return torch.randn(self.shape_of(images, grid), generator=generator).abs() + 0.1

    def shape_of(self, images: int, grid: tuple[int, int] = _GRID) -> tuple[int, ...]:
        return (images, _CHANNELS, *grid) if self.spec.needs == "map" else (images, _SHAPE.pooled)

    def loss(self, module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
        if self.spec.loss is not None:
            return self.spec.loss(module, features, targets)
        return nn.functional.cross_entropy(module(features), targets)

    def trained(self) -> nn.Module:
        """One whose parameters and buffers are no longer those it was built with."""
        module, features, targets = self.build().train(), self.features(_IMAGES), _targets(_IMAGES)
        if self.spec.fit is not None:
            with torch.no_grad():
                self.spec.fit(module, features, targets)
            return module
        torch.autograd.backward(self.loss(module, features, targets))
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad.sign())
        return module


def _targets(images: int) -> Tensor:
    return torch.arange(images) % _CLASSES


def _logits(module: nn.Module, features: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = module.eval()(features)
    return logits


def _builds(trial: HeadTrial) -> str:
    module = trial.build()
    require(isinstance(module, nn.Module), f"build must return a torch module, returned a {type(module).__name__}")
    require(bool(trial.spec.summary.strip()) and "\n" not in trial.spec.summary, "its summary must be one line")
    if trial.spec.fit is not None:
        parameters = [name for name, _ in module.named_parameters()]
        require(not parameters, f"a head that is fitted in closed form has no parameters, this one: {parameters}")
    if trial.spec.needs == "pooled":
        trial.build(shape=FeatureShape(pooled=_SHAPE.pooled))
    numbers = sum(parameter.numel() for parameter in module.parameters())
    return f"with its defaults: a module of {numbers:,} parameters for {_SHAPE.pooled} features and {_CLASSES} classes"


def _options(trial: HeadTrial) -> str:
    spec = trial.spec
    described = describe_options(spec.options)
    for each in described:
        default = getattr(trial.options, each.name)
        for way, value in (("JSON", each.default), ("text", _as_text(each.default))):
            read = _read(spec, each.name, value, each.type, way)
            require(read == default, f"{each.name}: its default {default!r} comes back from {way} as {read!r}")
        _require_typed(spec, each.name, each.type, type(default))
    whole = options_to_dict(trial.options)
    require(build_options(spec.name, spec.options, json.loads(json.dumps(whole))) == trial.options, "they change")
    names = ", ".join(each.name for each in described)
    return f"every default is of its type and comes back from text and JSON: {names}" if described else "it has none"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _read(spec: HeadSpec, name: str, value: Any, said: str, way: str) -> Any:
    try:
        return getattr(build_options(spec.name, spec.options, {name: value}), name)
    except OptionError as error:
        reason = str(error).splitlines()[-1].strip()
        raise Fault(f"the default of {name}: {said} is refused as {way}: {reason}") from None


def _require_typed(spec: HeadSpec, name: str, said: str, kind: type) -> None:
    """A number that is none must be refused, whatever the option's own check does."""
    if kind not in (int, float, bool):
        return
    try:
        built = build_options(spec.name, spec.options, {name: "no-number"})
    except OptionError:
        return
    raise Fault(f"{name}: {said} takes the text 'no-number' and becomes {getattr(built, name)!r}; say its type")


def _shapes(trial: HeadTrial) -> str:
    grids = [_GRID, (3, 3), (1, 1)] if trial.spec.needs == "map" else [_GRID]
    for classes in (2, _CLASSES):
        module = trial.build(classes=classes)
        for images in (2, 7):
            for grid in grids:
                features = trial.features(images, grid=grid)
                logits = compare.require_shape(
                    _logits(module, features), (images, classes), f"the logits of features{list(features.shape)}"
                )
                require(bool(logits.isfinite().all()), f"logits of features{list(features.shape)} are not finite")
    sizes = f", maps of {', '.join(f'{height}x{width}' for height, width in grids)}" if len(grids) > 1 else ""
    return f"logits[N, classes] for 2 and 7 images, 2 and {_CLASSES} classes{sizes}"


def _dtype(trial: HeadTrial) -> str:
    module = trial.build()
    others = [name for name, each in module.named_parameters() if each.dtype != torch.float32]
    require(not others, f"parameters must be float32, {compare.named(others)} is not")
    logits = _logits(module, trial.features(3))
    require(logits.dtype == torch.float32, f"float32 features must give float32 logits, gave {logits.dtype}")
    return "float32 features give float32 logits"


def _batch_of_one(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(4)
    alone, together = _logits(module, features[:1]), _logits(module, features)
    compare.require_shape(alone, (1, _CLASSES), "the logits of 1 image")
    compare.require_close(alone, together[:1], "an image has other logits alone than in a batch")
    return "an image has the same logits alone as in a batch"


def _gradients(trial: HeadTrial) -> str:
    if trial.spec.fit is not None:
        raise Skip("it is fitted in closed form and has no parameters")
    module = trial.build().train()
    features = trial.features(_IMAGES).requires_grad_()
    torch.autograd.backward(trial.loss(module, features, _targets(_IMAGES)))
    gradients = compare.gradients_of(module)
    without = [name for name, each in gradients.items() if each is None]
    require(not without, f"the loss does not depend on {compare.named(without)}; such a parameter never trains")
    compare.require_finite_gradients(gradients)
    passed_on = features.grad is not None and bool(features.grad.isfinite().all()) and bool(features.grad.any())
    require(passed_on, "no gradient reaches the features, so that no backbone can train below this head")
    return f"finite for all {len(gradients)} parameters and for the features"


def _loss(trial: HeadTrial) -> str:
    if trial.spec.fit is not None:
        raise Skip("it is fitted in closed form")
    module, features, targets = trial.trained().eval(), trial.features(_IMAGES), _targets(_IMAGES)
    with torch.no_grad():
        loss = compare.require_shape(trial.loss(module, features, targets), (), "the loss")
        twice = trial.loss(module, torch.cat([features, features]), torch.cat([targets, targets]))
    require(bool(loss.isfinite()), f"the loss must be finite, is {float(loss)}")
    compare.require_close(twice, loss, "the loss must be the mean over the batch: every image twice changes it")
    return "a finite number, the mean over the batch"


def _learns(trial: HeadTrial) -> str:
    """Classes that lie apart must be told apart: forty steps, or one fit."""
    targets = _targets(4 * _CLASSES)
    features = trial.features(len(targets)) * 0.2
    features[torch.arange(len(targets)), targets] += 2.0
    module = trial.build().train()
    if trial.spec.fit is not None:
        with torch.no_grad():
            trial.spec.fit(module, features, targets)
    else:
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            torch.autograd.backward(trial.loss(module, features, targets))
            optimizer.step()
    right = int((_logits(module, features).argmax(1) == targets).sum())
    need = len(targets) * 4 // 5
    how = "after one fit" if trial.spec.fit is not None else f"after {_STEPS} steps"
    require(right >= need, f"{how} it tells {right} of {len(targets)} images of classes that lie apart, needs {need}")
    return f"{how} it tells {right} of {len(targets)} images of {_CLASSES} classes that lie apart"


def _determinism(trial: HeadTrial) -> str:
    features, targets = trial.features(_IMAGES), _targets(_IMAGES)
    seen = []
    for _ in range(2):
        torch.manual_seed(SEED)
        with compare.seed_untouched("building or training it"):
            module = trial.spec.build(_SHAPE, _CLASSES, trial.options).train()
            built = compare.kept(module)
            with torch.no_grad():
                if trial.spec.fit is not None:
                    trial.spec.fit(module, features, targets)
                    outcome = module(features)
                else:
                    outcome = trial.loss(module, features, targets)
        seen.append((built, compare.kept(module), outcome))
    (built, after, outcome), (built_again, after_again, outcome_again) = seen
    for first, second, when in ((built, built_again, "built"), (after, after_again, "trained")):
        differ = [name for name in first if not torch.equal(first[name], second[name])]
        require(not differ, f"{when} twice under one seed, {compare.named(differ)} differs")
    require(torch.equal(outcome, outcome_again), "run twice under one seed in training mode, the results differ")
    return "built and run twice under one seed, every bit is the same"


def _modes(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    before = compare.kept(module.eval())
    left = compare.training_modules(module)
    require(not left, f".eval() leaves {compare.named(left)} in training mode")
    first, second = _logits(module, features), _logits(module, features)
    require(torch.equal(first, second), "in evaluation mode the same features give other logits the second time")
    moved = compare.changed(before, module)
    require(not moved, f"in evaluation mode a forward pass changes {compare.named(moved)}")
    shuffled = _logits(module, features.flip(0)).flip(0)
    compare.require_close(shuffled, first, "in evaluation mode an image's logits depend on the others in its batch")
    module.train()
    resting = [name or "the module itself" for name, each in module.named_modules() if not each.training]
    require(not resting, f".train() leaves {compare.named(resting)} in evaluation mode")
    return "in evaluation mode every image has its own logits, always the same, and nothing changes"


def _state_round_trip(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    stored = compare.through_a_file(module)
    fresh = trial.build(seed=SEED + 1)
    fresh.load_state_dict(stored)
    same = torch.equal(_logits(fresh, features), _logits(module, features))
    require(same, "a fresh head with the saved state has other logits: something that training changes is not in it")
    return f"a fresh head with the {len(stored)} saved tensors has the same logits, bit for bit"


def _device_move(trial: HeadTrial) -> str:
    with torch.device("meta"):
        outline = trial.build()
        shape = outline.eval()(torch.empty(trial.shape_of(2))).shape
    require(tuple(shape) == (2, _CLASSES), f"on the meta device the logits are {list(shape)}, not [2, {_CLASSES}]")
    elsewhere = [name for name, each in compare.tensors_of(outline).items() if not each.is_meta]
    require(not elsewhere, f"built on the meta device, {compare.named(elsewhere)} is on another one")
    try:
        trial.build().to("meta").eval()(torch.empty(trial.shape_of(2), device="meta"))
    except Exception as error:
        first = first_line(error)
        raise Fault(
            f"moved to another device it does not run; is a tensor neither parameter nor buffer? {first}"
        ) from error
    return "built on the meta device, and moved to it from the CPU, it runs"


def _cuda(trial: HeadTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    module, features = trial.trained(), trial.features(6)
    expected = _logits(module, features)
    moved = _logits(module.to("cuda"), features.to("cuda"))
    apart = compare.require_close(moved, expected, "on the GPU the logits are others", share=1e-3)
    return f"on the GPU the logits are those of the CPU, within {apart:.1g} of the largest"


def _freezing(trial: HeadTrial) -> str:
    """On the tiny backbone, in zoo's own model: each of the two rests while the other trains."""
    module = _model(trial)
    images, targets = _tiny_batch()
    if trial.spec.fit is None:
        _step(module, module.groups.names, images, targets, frozen=module.head, what="the head")
    module.freeze_all_but([HEAD])
    module.train()
    before = compare.kept(module.backbone)
    if trial.spec.fit is not None:
        module.fit_head(module.features(images), targets)
    else:
        _step(module, [HEAD], images, targets, frozen=module.backbone, what="the backbone")
    moved = compare.changed(before, module.backbone)
    require(not moved, f"training the head changes {compare.named(moved)} of the frozen backbone")
    if trial.spec.fit is not None:
        return "fitting it leaves the frozen backbone as it was, bit for bit"
    return "frozen it stays as it was while the backbone trains, and the frozen backbone while it trains, bit for bit"


def _model(trial: HeadTrial) -> ZooModel:
    torch.manual_seed(SEED)
    backbone = SPEC.build(tag=None, state=None)
    return ZooModel(
        backbone,
        trial.spec.build(backbone.shape, _CLASSES, trial.options),
        name=SPEC.name,
        classes=tuple(f"class{index}" for index in range(_CLASSES)),
        preprocessing=SPEC.preprocessing,
        needs=trial.spec.needs,
        loss=trial.spec.loss,
        fit=trial.spec.fit,
    )


def _tiny_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(_IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), _targets(_IMAGES)


def _step(
    model: ZooModel, groups: Sequence[str], images: Tensor, targets: Tensor, *, frozen: nn.Module, what: str
) -> None:
    """One step in training mode of these groups alone; `frozen`, called `what`, must stay bit for bit."""
    model.freeze_all_but(groups)
    model.train()
    before = compare.kept(frozen)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    torch.autograd.backward(model.loss(model.features(images), targets))
    optimizer.step()
    moved = compare.changed(before, frozen)
    require(not moved, f"{what} is frozen, and a step of the rest changes its {compare.named(moved)}")


def _bf16(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    expected = _logits(module, features)
    with torch.autocast("cpu", torch.bfloat16):
        logits = compare.require_shape(_logits(module, features), expected.shape, "the logits in bfloat16")
    apart = compare.require_close(logits, expected, "in bfloat16 the logits are others", share=compare.CLOSE_BF16)
    return f"under bfloat16 autocast the logits are within {apart:.2g} of the largest of float32's"


def _export(trial: HeadTrial) -> str:
    module = trial.trained().eval().requires_grad_(False)
    compare.require_exported(module, trial.features(3), [trial.features(1), trial.features(8)])
    return "torch.export takes it, for any number of images, and the program's logits are its own"


def _tiny_widths(trial: HeadTrial) -> str:
    """Options that cannot be with some widths say so with a ValueError; anything else is a fault."""
    tried = 0
    for width in (1, 3, 2 * WIDTH):
        try:
            module = trial.build(shape=FeatureShape(pooled=width, map=width))
        except (ValueError, ZooError):
            continue
        tried += 1
        shape = (2, width, 2, 2) if trial.spec.needs == "map" else (2, width)
        compare.require_shape(_logits(module, torch.ones(shape)), (2, _CLASSES), f"the logits for {width} features")
    require(tried > 0, "it can be built for none of 1, 3 and 48 features with its default options")
    return f"built for {tried} of 3 other widths of features; the rest it refuses with a ValueError"


STEPS: tuple[Step[HeadTrial], ...] = (
    ("builds", _builds),
    ("options", _options),
    ("shapes", _shapes),
    ("widths", _tiny_widths),
    ("dtype", _dtype),
    ("batch_of_one", _batch_of_one),
    ("gradients", _gradients),
    ("loss", _loss),
    ("learns", _learns),
    ("determinism", _determinism),
    ("train_and_eval", _modes),
    ("state_round_trip", _state_round_trip),
    ("device_move", _device_move),
    ("cuda", _cuda),
    ("freezing", _freezing),
    ("bf16", _bf16),
    ("export", _export),
)
