"""A head that was passed as an object: named, built as a copy, and tried on features before anything runs."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, Refused, first_line
from zoo.model.own_checks import refuse_lazy, refuse_unsaved
from zoo.specs.backbone import FeatureShape
from zoo.specs.head import HeadCallable, HeadSpec
from zoo.specs.validation import fit_name

# The fewest on which a batch norm in the head can train.
_IMAGES = 2
_POSITIONS = (3, 4)
"""(height, width) of the map that a head is tried on. They differ, so that a head that mixes them up is noticed."""
HOW = "head=lambda shape, classes: torch.nn.Linear(shape.pooled, classes)"


def head_spec(head: HeadSpec | HeadCallable) -> HeadSpec:
    """The spec of a head object, whose build returns a copy and is tried on features before its first use.

    Raises OptionError for a module, and for what cannot be called with (shape, classes).
    """
    if isinstance(head, HeadSpec):
        return replace(head, build=functools.partial(_build, head.name, head.build, head))
    if isinstance(head, nn.Module):
        raise OptionError(
            f"A head is made for a backbone's features and a number of classes, and this is a finished "
            f"{type(head).__name__}.\nNext: pass a function that makes it: {HOW}."
        )
    if not callable(head):
        raise OptionError(
            f"A head is a name, a zoo.HeadSpec or a function, and this is a {type(head).__name__}.\nNext: {HOW}."
        )
    name = name_of(head)
    _refuse_other_arguments(head, name)

    def build(shape: FeatureShape, classes: int, options: Any) -> nn.Module:
        return head(shape, classes)

    summary = f"A head that was passed as an object, {name}."
    spec = HeadSpec(name=name, summary=summary, build=build)
    return replace(spec, build=functools.partial(_build, name, build, spec))


def name_of(value: object) -> str:
    """The name of an object, made fit for the rules of names: `<lambda>` is `lambda`."""
    while isinstance(value, functools.partial):
        value = value.func
    name = getattr(value, "__name__", type(value).__name__)
    return fit_name(str(name))


def features_for(spec: HeadSpec, shape: FeatureShape) -> Tensor:
    """Random features of two images, as the head needs them: [2, F], or a map[2, C, H, W]."""
    generator = torch.Generator().manual_seed(0)
    if spec.needs == "map":
        assert shape.map is not None, "a backbone without a map was refused before"
        return torch.randn(_IMAGES, shape.map, *_POSITIONS, generator=generator)
    return torch.randn(_IMAGES, shape.pooled + sum(shape.layers or ()), generator=generator)


def _refuse_other_arguments(head: Callable[..., object], name: str) -> None:
    try:
        signature = inspect.signature(head)
    except (TypeError, ValueError):  # some callables of C have none
        return
    try:
        # Bound instead of counted: `*args`, defaults and partials are fine, as long as this call is.
        signature.bind(FeatureShape(pooled=1), 2)
    except TypeError as error:
        raise OptionError(
            f"The head {name} is called with two arguments, a zoo.FeatureShape and the number of classes, and takes "
            f"{signature}: {error}.\nNext: give it these two, as in {HOW}."
        ) from None


def _build(
    name: str,
    build: Callable[[FeatureShape, int, Any], nn.Module],
    spec: HeadSpec,
    shape: FeatureShape,
    classes: int,
    options: Any,
) -> nn.Module:
    """The head on the current default device: a copy, so that a module which the callable keeps never changes."""
    _try(name, build, spec, shape, classes, options)
    return _copied(name, _made(name, build, shape, classes, options)).to(torch.get_default_device())


def _made(
    name: str,
    build: Callable[[FeatureShape, int, Any], nn.Module],
    shape: FeatureShape,
    classes: int,
    options: Any,
) -> nn.Module:
    asked = f"({shape}, {classes})"
    try:
        module = build(shape, classes, options)
    except (Refused, ValueError):
        raise  # a ValueError says why these options cannot work here; the caller words it
    except Exception as error:
        raise OptionError(
            f"The head {name} was called with {asked} and raised {type(error).__name__}: {first_line(error)}\n"
            f"Next: mend it; a head is a function (shape, classes) that returns a torch module, such as {HOW}."
        ) from error
    if not isinstance(module, nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise OptionError(
            f"The head {name} was called with {asked} and returned {what}, not a torch module.\nNext: {HOW}."
        )
    refuse_lazy(module, f"The head {name}", f"give it shape.pooled inputs: {HOW}")
    return module


def _try(
    name: str,
    build: Callable[[FeatureShape, int, Any], nn.Module],
    spec: HeadSpec,
    shape: FeatureShape,
    classes: int,
    options: Any,
) -> None:
    """Build the head on the CPU and run it on random features. Draws no random numbers of the run's.

    Raises OptionError for what it does not do as a head must.
    """
    # On the CPU, though the head may be wanted on the meta device, where nothing has values that could be looked at.
    # No generator of a GPU is used here, and to save the state of one would start CUDA.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        made = _made(name, build, shape, classes, options)
        refuse_unsaved(made, f"The head {name}")
        module = _copied(name, made).cpu()
        _refuse_untrainable(name, spec, module)
        # Evaluation mode first: running it in training mode may change buffers, and then both would differ.
        logits = _logits(name, module.eval(), spec, shape, classes)
        again = _logits(name, module, spec, shape, classes)
        if spec.loss is None:  # else the spec's loss alone says what the module gives in training
            _logits(name, module.train(), spec, shape, classes)
    if not torch.equal(logits, again):
        raise OptionError(
            f"The head {name} gave other logits when it was run again on the same features, in evaluation mode.\n"
            "Next: leave out what is random there; nn.Dropout leaves it out by itself, F.dropout needs "
            "training=self.training."
        )
    # Softmax in float32 adds up to 1 but for rounding. Random logits hardly ever do, and are not all positive.
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise OptionError(
            f"The head {name} gives probabilities, which add up to 1, and softmax is taken of what a head gives.\n"
            "Next: leave Softmax out, so that its last layer gives the logits: torch.nn.Linear(..., classes)."
        )


def _logits(name: str, module: nn.Module, spec: HeadSpec, shape: FeatureShape, classes: int) -> Tensor:
    """What a head gives for random features, logits[2, classes]. Raises OptionError for anything else."""
    features = features_for(spec, shape)
    seen = f"features {list(features.shape)}{', in training mode,' if module.training else ''}"
    try:
        with torch.no_grad():
            logits = module(features)
    except Exception as error:  # the module's own code, which may fail in any way
        raise OptionError(
            f"The head {name}, built with ({shape}, {classes}), was run on {seen} and raised "
            f"{type(error).__name__}: {first_line(error)}\n"
            f"Next: let it map features[N, {features.shape[1]}{', H, W' if spec.needs == 'map' else ''}] to "
            f"logits[N, {classes}]."
        ) from error
    wanted = [_IMAGES, classes]
    found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor) or found != wanted or logits.dtype != torch.float32:
        kind = "" if not isinstance(logits, Tensor) or logits.dtype == torch.float32 else f" of {logits.dtype}"
        raise OptionError(
            f"The head {name} gave {found}{kind} for {seen} and {classes} classes, wanted {wanted} of float32.\n"
            f"Next: let its last layer give one logit a class: torch.nn.Linear(..., classes)."
        )
    return logits


def _refuse_untrainable(name: str, spec: HeadSpec, module: nn.Module) -> None:
    parameters = dict(module.named_parameters())
    if spec.fit is None and not parameters:
        raise OptionError(f"The head {name} has no parameters, so there is nothing to train.\nNext: {HOW}.")
    frozen = [each for each, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise OptionError(
            f"The head {name} has requires_grad=False on {frozen[0]!r}, and every parameter of a head is trained.\n"
            "Next: make what stays as it is a buffer: module.register_buffer(...)."
        )


def _copied(name: str, module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # copying runs code of everything that the module holds
        raise OptionError(
            f"The module of the head {name} cannot be copied, and zoo never changes what was passed: "
            f"{first_line(error)}.\nNext: remove from it what is no module, parameter, buffer or plain value."
        ) from error
