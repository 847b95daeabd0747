"""The checks of a head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, ZooError, first_line, without_step
from zoo.model.layers import find_outputs
from zoo.model.model import HEAD, ZooModel, with_layers
from zoo.specs.backbone import FeatureShape, GroupOutput
from zoo.specs.head import HeadSpec
from zoo.specs.options import build_options, describe_options, options_to_dict
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import SEED, Fault, Skip, Step
from zoo.testing.tiny import SIDE, SPEC, WIDTH

# Pooled features and map differ in width, so that a head that reads the wrong one cannot run.
_CHANNELS = 16
_SHAPE = FeatureShape(pooled=24, map=_CHANNELS)
_LAYERS = (3, 5)
"""Widths of the groups' means, for a head that needs the layers."""
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
        """The head's options with their defaults."""
        return self.spec.options()

    @property
    def shape(self) -> FeatureShape:
        """The widths of the features that it gets."""
        return replace(_SHAPE, layers=_LAYERS) if self.spec.needs == "layers" else _SHAPE

    def build(self, *, seed: int = SEED, shape: FeatureShape | None = None, classes: int = _CLASSES) -> nn.Module:
        """Build it with its default options and with random weights of this seed."""
        torch.manual_seed(seed)
        return self.spec.build(shape or self.shape, classes, self.options)

    def features(self, images: int, *, grid: tuple[int, int] = _GRID, seed: int = 0) -> Tensor:
        """Random features[N, F], or map[N, C, H, W] for a head that needs one; positive, as after a ReLU."""
        generator = torch.Generator().manual_seed(1000 * images + seed)
        return torch.randn(self.shape_of(images, grid), generator=generator).abs() + 0.1

    def shape_of(self, images: int, grid: tuple[int, int] = _GRID) -> tuple[int, ...]:
        """The shape of the head's input for so many images: (N, F), or (N, C, H, W) with `grid` as (H, W)."""
        if self.spec.needs == "map":
            return (images, _CHANNELS, *grid)
        return (images, self.shape.pooled + sum(self.shape.layers or ()))

    def loss(self, module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the head's loss, a scalar, of features[N, F] or map[N, C, H, W] and class indices targets[N]."""
        if self.spec.loss is not None:
            return self.spec.loss(module, features, targets)
        return nn.functional.cross_entropy(module(features), targets)

    def trained(self) -> nn.Module:
        """Build it and take one step or fit, so that its parameters and buffers differ from a fresh head's."""
        module, features, targets = self.build().train(), self.features(_IMAGES), _targets(_IMAGES)
        if self.spec.fit is not None:
            with torch.no_grad():
                self.spec.fit(module, features, targets)
            return module
        # Steps of one size for every parameter, whatever its gradient's scale: even slow parameters visibly move.
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
    require(isinstance(module, nn.Module), f"build must return an nn.Module, returned a {type(module).__name__}")
    require(bool(trial.spec.summary.strip()) and "\n" not in trial.spec.summary, "its summary must be one line")
    if trial.spec.fit is not None:
        parameters = [name for name, _ in module.named_parameters()]
        require(not parameters, f"a head that is fitted in closed form must have no parameters, got {parameters}")
    if trial.spec.needs == "pooled":
        trial.build(shape=FeatureShape(pooled=_SHAPE.pooled))  # must work for a backbone without a map
    numbers = sum(parameter.numel() for parameter in module.parameters())
    width = _CHANNELS if trial.spec.needs == "map" else trial.shape_of(1)[1]
    return f"{numbers:,} parameters with default options, {width} features and {_CLASSES} classes"


def _options(trial: HeadTrial) -> str:
    spec = trial.spec
    options = describe_options(spec.options)
    for option in options:
        default = getattr(trial.options, option.name)
        # An artefact stores options as JSON; the command line gives them as text.
        for source, value in (("JSON", option.default), ("text", _as_text(option.default))):
            parsed = _parse(spec, option.name, value, option.type, source)
            require(parsed == default, f"{option.name}: default {default!r} is read back from {source} as {parsed!r}")
        _require_typed(spec, option.name, option.type, type(default))
    stored = json.loads(json.dumps(options_to_dict(trial.options)))
    same = build_options(spec.name, spec.options, stored) == trial.options
    require(same, "the options change when they are stored as JSON and read back")
    names = ", ".join(option.name for option in options)
    return f"every default has its type and is read back from text and JSON: {names}" if options else "it has none"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _parse(spec: HeadSpec, name: str, value: Any, type_name: str, source: str) -> Any:
    try:
        return getattr(build_options(spec.name, spec.options, {name: value}), name)
    except OptionError as error:
        reason = without_step(str(error)).splitlines()[-1].strip()
        raise Fault(f"the default of {name}: {type_name} is refused as {source}: {reason}") from None


def _require_typed(spec: HeadSpec, name: str, type_name: str, kind: type) -> None:
    """Require that a text which is no number is refused for a number, even where the options validate nothing."""
    # A text option accepts any text.
    if kind not in (int, float, bool):
        return
    try:
        built = build_options(spec.name, spec.options, {name: "no-number"})
    except OptionError:
        return
    value = getattr(built, name)
    raise Fault(f"{name}: {type_name} accepts the text 'no-number' as {value!r}; annotate the option with its type")


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
    other = [name for name, parameter in module.named_parameters() if parameter.dtype != torch.float32]
    require(not other, f"parameters must be float32, {compare.listed(other)} is not")
    logits = _logits(module, trial.features(3))
    require(logits.dtype == torch.float32, f"float32 features must give float32 logits, gave {logits.dtype}")
    return "float32 features give float32 logits"


def _batch_of_one(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(4)
    alone, together = _logits(module, features[:1]), _logits(module, features)
    compare.require_shape(alone, (1, _CLASSES), "the logits of 1 image")
    compare.require_close(alone, together[:1], "an image has different logits alone and in a batch")
    return "an image has the same logits alone as in a batch"


def _gradients(trial: HeadTrial) -> str:
    if trial.spec.fit is not None:
        raise Skip("it is fitted in closed form and has no parameters")
    module = trial.build().train()
    features = trial.features(_IMAGES).requires_grad_()
    torch.autograd.backward(trial.loss(module, features, _targets(_IMAGES)))
    gradients = compare.gradients_of(module)
    without = [name for name, gradient in gradients.items() if gradient is None]
    require(not without, f"the loss does not depend on {compare.listed(without)}; such a parameter never trains")
    compare.require_finite_gradients(gradients)
    reached = features.grad is not None and bool(features.grad.isfinite().all()) and bool(features.grad.any())
    require(reached, "no gradient reaches the features, so no backbone can train below this head")
    return f"gradients are finite for all {len(gradients)} parameters and for the features"


def _loss(trial: HeadTrial) -> str:
    if trial.spec.fit is not None:
        raise Skip("it is fitted in closed form")
    module, features, targets = trial.trained().eval(), trial.features(_IMAGES), _targets(_IMAGES)
    with torch.no_grad():
        # In evaluation mode: dropout would draw differently for the doubled batch.
        loss = compare.require_shape(trial.loss(module, features, targets), (), "the loss")
        twice = trial.loss(module, torch.cat([features, features]), torch.cat([targets, targets]))
    require(bool(loss.isfinite()), f"the loss must be finite, is {float(loss)}")
    # A mean does not change when the batch is doubled, a sum does. Learning rates are chosen for means.
    compare.require_close(twice, loss, "the loss must be the mean over the batch, but doubling the batch changes it")
    return "the loss is finite and the mean over the batch"


def _learns(trial: HeadTrial) -> str:
    """Train on clearly separated classes, for forty steps or one fit, and require 80 % of the images to be right."""
    targets = _targets(4 * _CLASSES)
    features = trial.features(len(targets)) * 0.2
    # Each class has a feature of its own that is far above the noise: a head that can learn anything learns this.
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
    correct = int((_logits(module, features).argmax(1) == targets).sum())
    needed = len(targets) * 4 // 5
    effort = "after one fit" if trial.spec.fit is not None else f"after {_STEPS} steps"
    outcome = f"{effort} it classifies {correct} of {len(targets)} images of {_CLASSES} separated classes correctly"
    require(correct >= needed, f"{outcome}, at least {needed} are required")
    return outcome


def _determinism(trial: HeadTrial) -> str:
    features, targets = trial.features(_IMAGES), _targets(_IMAGES)
    runs = []
    for _ in range(2):
        torch.manual_seed(SEED)
        with compare.seed_untouched("building or training it"):
            module = trial.spec.build(trial.shape, _CLASSES, trial.options).train()
            built = compare.snapshot(module)
            with torch.no_grad():
                if trial.spec.fit is not None:
                    trial.spec.fit(module, features, targets)
                    outcome = module(features)
                else:
                    outcome = trial.loss(module, features, targets)
        runs.append((built, compare.snapshot(module), outcome))
    (built, after, outcome), (built_again, after_again, outcome_again) = runs
    for first, second, action in ((built, built_again, "built"), (after, after_again, "trained")):
        differ = [name for name in first if not torch.equal(first[name], second[name])]
        require(not differ, f"{action} twice with the same seed, {compare.listed(differ)} differs")
    require(torch.equal(outcome, outcome_again), "run twice with the same seed in training mode, the results differ")
    return "built and run twice with the same seed, the results are bit-identical"


def _modes(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    before = compare.snapshot(module.eval())
    in_training = compare.modules_in_mode(module, training=True)
    require(not in_training, f".eval() leaves {compare.listed(in_training)} in training mode")
    first, second = _logits(module, features), _logits(module, features)
    require(torch.equal(first, second), "in evaluation mode the same features give different logits the second time")
    changed = compare.changed(before, module)
    require(not changed, f"in evaluation mode a forward pass changes {compare.listed(changed)}")
    reversed_batch = _logits(module, features.flip(0)).flip(0)
    fault = "in evaluation mode an image's logits depend on the other images in its batch"
    compare.require_close(reversed_batch, first, fault)
    in_evaluation = compare.modules_in_mode(module.train(), training=False)
    require(not in_evaluation, f".train() leaves {compare.listed(in_evaluation)} in evaluation mode")
    return "in evaluation mode logits are repeatable and independent of the batch, and a forward pass changes nothing"


def _state_round_trip(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    stored = compare.through_a_file(module)
    # With another seed, so that only the saved state can make the two equal.
    fresh = trial.build(seed=SEED + 1)
    fresh.load_state_dict(stored)
    same = torch.equal(_logits(fresh, features), _logits(module, features))
    require(same, "a fresh head with the saved state gives different logits: the state lacks something that trains")
    return f"a fresh head with the {len(stored)} saved tensors gives bit-identical logits"


def _device_move(trial: HeadTrial) -> str:
    with torch.device("meta"):
        outline = trial.build()
        shape = outline.eval()(torch.empty(trial.shape_of(2))).shape
    require(tuple(shape) == (2, _CLASSES), f"on the meta device the logits are {list(shape)}, not [2, {_CLASSES}]")
    elsewhere = [name for name, tensor in compare.tensors_of(outline).items() if not tensor.is_meta]
    require(not elsewhere, f"built on the meta device, {compare.listed(elsewhere)} is on another one")
    # The meta device stands for a GPU here: a tensor that does not move with the module fails on it in the same way.
    try:
        trial.build().to("meta").eval()(torch.empty(trial.shape_of(2), device="meta"))
    except Exception as error:
        question = "is one of its tensors neither a parameter nor a buffer?"
        raise Fault(f"moved to another device, it does not run; {question} {first_line(error)}") from error
    return "it runs when built on the meta device, and when moved there from the CPU"


def _cuda(trial: HeadTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    module, features = trial.trained(), trial.features(6)
    expected = _logits(module, features)
    actual = _logits(module.to("cuda"), features.to("cuda"))
    difference = compare.require_close(actual, expected, "the logits on the GPU differ from the CPU's", share=1e-3)
    return f"the logits on the GPU equal the CPU's, within {difference:.1g} of the largest"


def _freezing(trial: HeadTrial) -> str:
    """Put it on the tiny backbone in a `ZooModel`, and train each of the two while the other is frozen."""
    model = _model(trial)
    images, targets = _tiny_batch()
    if trial.spec.fit is None:
        _step(model, model.groups.names, images, targets, frozen=model.head, what="the head")
    model.freeze_all_but([HEAD])
    model.train()
    before = compare.snapshot(model.backbone)
    if trial.spec.fit is not None:
        model.fit_head(model.features(images), targets)
    else:
        _step(model, [HEAD], images, targets, frozen=model.backbone, what="the backbone")
    changed = compare.changed(before, model.backbone)
    require(not changed, f"training the head changes {compare.listed(changed)} of the frozen backbone")
    if trial.spec.fit is not None:
        return "fitting it leaves the frozen backbone bit-identical"
    return "head and backbone each stay bit-identical while frozen and the other trains"


def _model(trial: HeadTrial) -> ZooModel:
    torch.manual_seed(SEED)
    backbone = SPEC.build(tag=None, state=None)
    layers: tuple[GroupOutput, ...] = ()
    if trial.spec.needs == "layers":
        layers = find_outputs(lambda size: SPEC.build(tag=None, state=None), (SIDE, SIDE))
    return ZooModel(
        backbone,
        trial.spec.build(with_layers(backbone.shape, layers), _CLASSES, trial.options),
        name=SPEC.name,
        classes=tuple(f"class{index}" for index in range(_CLASSES)),
        preprocessing=SPEC.preprocessing,
        needs=trial.spec.needs,
        loss=trial.spec.loss,
        fit=trial.spec.fit,
        linear=trial.spec.linear,
        layers=layers,
    )


def _linear(trial: HeadTrial) -> str:
    """Compare its logits in evaluation mode with those of the layer that it names."""
    if trial.spec.linear is None:
        raise Skip("it declares no linear layer, so gradient steps train it")
    module, features = trial.trained().eval(), trial.features(6)
    layer = trial.spec.linear(module)
    require(isinstance(layer, nn.Linear), f"linear must return an nn.Linear, returned a {type(layer).__name__}")
    require(layer.bias is not None, "the layer that linear returns must have a bias: the solver folds the mean into it")
    own = {id(layer.weight), id(layer.bias)}
    others = [name for name, parameter in module.named_parameters() if id(parameter) not in own]
    require(not others, f"beside the layer that linear returns it has {compare.listed(others)}, which no solver fits")
    same = torch.equal(_logits(module, features), _logits(layer, features))
    require(same, "in evaluation mode its logits are not exactly those of the layer that linear returns")
    return "in evaluation mode its logits are exactly those of the linear layer that it names, its only parameters"


def _tiny_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(_IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), _targets(_IMAGES)


def _step(
    model: ZooModel, groups: Sequence[str], images: Tensor, targets: Tensor, *, frozen: nn.Module, what: str
) -> None:
    """Take one step that trains `groups` alone, and require that the tensors of `frozen` stay bit-identical.

    The shapes are images[N, 3, H, W] and targets[N]; `what` names `frozen` in the message.
    """
    model.freeze_all_but(groups)
    model.train()
    before = compare.snapshot(frozen)
    # Without momentum or decay: whatever moves has a gradient, and the rate is high enough to show it.
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    torch.autograd.backward(model.loss(model.features(images), targets))
    optimizer.step()
    changed = compare.changed(before, frozen)
    require(not changed, f"{what} is frozen, but a step of the rest changes its {compare.listed(changed)}")


def _bf16(trial: HeadTrial) -> str:
    module, features = trial.trained(), trial.features(6)
    expected = _logits(module, features)
    with torch.autocast("cpu", torch.bfloat16):
        logits = compare.require_shape(_logits(module, features), expected.shape, "the logits in bfloat16")
    fault = "the logits in bfloat16 differ from float32's"
    difference = compare.require_close(logits, expected, fault, share=compare.CLOSE_BF16)
    return f"the logits under bfloat16 autocast equal float32's, within {difference:.2g} of the largest"


def _export(trial: HeadTrial) -> str:
    module = trial.trained().eval().requires_grad_(False)
    compare.require_exported(module, trial.features(3), [trial.features(1), trial.features(8)])
    return "torch.export accepts it for any batch size, and the exported program gives the same logits"


def _widths(trial: HeadTrial) -> str:
    """Build it for other widths. It may refuse a width with a ValueError; any other error is a fault."""
    built = 0
    # The least, an odd one and a large one. A head that divides the width, as by its attention heads, may refuse some.
    for width in (1, 3, 2 * WIDTH):
        try:
            module = trial.build(shape=replace(trial.shape, pooled=width, map=width))
        except (ValueError, ZooError):
            continue
        built += 1
        shape = (2, width, 2, 2) if trial.spec.needs == "map" else (2, width + sum(trial.shape.layers or ()))
        compare.require_shape(_logits(module, torch.ones(shape)), (2, _CLASSES), f"the logits for {width} features")
    require(built > 0, "it can be built for none of 1, 3 and 48 features with its default options")
    return f"built for {built} of 3 other feature widths; the others are refused with a ValueError"


STEPS: tuple[Step[HeadTrial], ...] = (
    ("builds", _builds),
    ("options", _options),
    ("shapes", _shapes),
    ("widths", _widths),
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
    ("linear", _linear),
    ("bf16", _bf16),
    ("export", _export),
)
