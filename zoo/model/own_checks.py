"""What zoo relies on in a module that was passed as a backbone: found out by running it, and refused where it fails."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from zoo.errors import OptionError, first_line
from zoo.specs.preprocessing import Preprocessing
from zoo.text import some

# The fewest on which a batch norm can train.
_IMAGES = 2
_CLASSIFIERS = (1000, 1001, 11821, 21841, 21843)
"""Numbers of classes of ImageNet, and of its larger sets."""


@dataclass(frozen=True, slots=True)
class ModuleOutput:
    """What a module returns, and how features are made of it."""

    width: int
    """F of the pooled features[N, F]; the channels of the map, where it returns one."""
    pool: Callable[[nn.Module, Tensor], Tensor]
    """(module, images[N, 3, H, W]) -> pooled features[N, F]."""
    map: Callable[[nn.Module, Tensor], Tensor] | None
    """(module, images[N, 3, H, W]) -> map[N, C, H', W']; None where it returns none."""
    no_map: str
    """Why there is no map, as the end of a sentence."""
    words: str
    """The same for people."""


def call(module: nn.Module, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> what the module returns, features[N, F] or a map[N, C, H', W']."""
    output: Tensor = module(images)
    return output


def pool_mean(module: nn.Module, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> features[N, C], the mean of the module's map[N, C, H', W'] over its positions."""
    output: Tensor = module(images)
    return output.mean((2, 3))


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module on the meta device, with shapes and without memory."""
    memo: dict[int, Any] = {}
    for tensor in _tensors(module):
        # What deepcopy finds in its memo it takes for copied already, so no value is ever copied.
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        )
    return copy.deepcopy(module, memo)


def refuse_unfit(module: nn.Module, label: str) -> None:
    """Raise OptionError for what could not be trained in float32."""
    if not any(True for _ in module.parameters()):
        raise OptionError(
            f"The module {label} has no parameters, so it learned nothing and has nothing to train.\n"
            "Next: pass a module with layers that have some."
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise OptionError(
                f"{name!r} of the module {label} is {tensor.dtype}, and zoo trains in float32.\n"
                "Next: pass module.float(); precision='bfloat16' computes faster where that pays."
            )


def refuse_lazy(module: nn.Module, what: str, step: str) -> None:
    """Raise OptionError where a tensor has no shape yet; `what` begins the sentence, and `step` ends it."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise OptionError(f"{what} is lazy: {name!r} has no shape yet.\nNext: {step}.")


def refuse_unsaved(module: nn.Module, what: str) -> None:
    """Raise OptionError where a module's state cannot be stored as tensors by name; `what` begins the sentence.

    One tensor may have several names, as that of a layer that stands in two places: it is stored under each. Two
    tensors that are views of one would be two after a copy, so the module is given as its author made it.
    """
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise OptionError(
                f"{what} saves {name!r}, a {type(value).__name__}, and an artefact holds tensors alone.\n"
                "Next: make it a buffer, or a plain attribute that its class sets."
            )
        memory = value.data_ptr() if value.device.type != "meta" else 0
        if not memory:
            continue
        first, tensor = seen.setdefault(memory, (name, value))
        if tensor is not value:
            raise OptionError(
                f"{what} has two tensors, {first!r} and {name!r}, in one piece of memory, so that training the one may "
                "change the other.\nNext: give them memory of their own; or use one tensor under both names."
            )


def output_layout(module: nn.Module, preprocessing: Preprocessing, label: str) -> ModuleOutput:
    """Run a module on two random images, see what it returns, and how features are made of that.

    Raises OptionError where that cannot be told, or does not depend on the images alone.
    """
    size = preprocessing.input_size
    images = torch.randn(_IMAGES, *size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        output = _run(module, images, label)
        again = _run(module, images, label)
    if not torch.equal(output, again):
        raise OptionError(
            f"The module {label} gives other outputs when it is run again on the same images, in evaluation mode.\n"
            "Next: leave out what is random there; nn.Dropout leaves it out by itself, F.dropout needs "
            "training=self.training."
        )
    shape = tuple(output.shape)
    _refuse_no_shapes(module, size, shape, label)
    _refuse_other_in_training(module, images, shape, label)
    if len(shape) == 2:
        return ModuleOutput(shape[1], call, None, "its output has no positions", f"it returns features[N, {shape[1]}]")
    if len(shape) == 4:
        return _map_layout(module, size, shape, label)
    raise OptionError(
        f"The module {label} returns {_listed(shape)} for images {_listed(images.shape)}; a backbone returns features"
        "[N, F], or a map[N, C, H, W].\nNext: wrap it in a module whose forward() returns one of these, such as the "
        "mean over the tokens, x.mean(1)."
    )


def _run(module: nn.Module, images: Tensor, label: str) -> Tensor:
    try:
        output = module(images.clone())
    except Exception as error:  # the module's own code, which may fail in any way
        raise OptionError(
            f"The module {label} was run on images {_listed(images.shape)} and raised "
            f"{type(error).__name__}: {first_line(error)}\n"
            "Next: pass a module that takes images[N, 3, H, W] of the preprocessing's input_size."
        ) from error
    if not isinstance(output, Tensor):
        raise OptionError(
            f"The module {label} returns a {type(output).__name__}, not a tensor.\n"
            "Next: wrap it in a module whose forward() returns the features[N, F] out of it."
        )
    if len(output) != len(images) or output.ndim < 2 or not output.is_floating_point():
        raise OptionError(
            f"The module {label} returns {output.dtype} {_listed(output.shape)} for {len(images)} images; it must "
            f"return numbers for each image, [{len(images)}, F].\nNext: wrap it in a module that does."
        )
    return output


def _refuse_no_shapes(module: nn.Module, size: tuple[int, int, int], shape: tuple[int, ...], label: str) -> None:
    """Refuse a module that does not run on the meta device, where zoo sees what trains and which input sizes work."""
    try:
        with torch.device("meta"), torch.no_grad():
            found = tuple(on_meta(module)(torch.empty(_IMAGES, *size)).shape)
    except Exception as error:
        plain = next(_plain_tensors(module), None)
        why = f" It holds the tensor {plain!r}, which is neither parameter nor buffer." if plain else ""
        step = "register it with register_buffer()" if plain else "compute nothing there that depends on values"
        raise OptionError(
            f"The module {label} cannot be run without values, on torch's meta device, where zoo looks at shapes: "
            f"{first_line(error)}.{why}\nNext: {step}."
        ) from error
    if found != shape:
        raise OptionError(
            f"The module {label} returns {_listed(shape)}, and {_listed(found)} without values.\n"
            "Next: let the shape of its output depend on that of the images alone."
        )


def _refuse_other_in_training(module: nn.Module, images: Tensor, shape: tuple[int, ...], label: str) -> None:
    """Refuse a module that returns something else while it is trained, as GoogLeNet with auxiliary classifiers does."""
    try:
        # With values: what is dropped at random may be decided by them.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            # A copy, as a pass in training mode moves the statistics of batch norms.
            found = copy.deepcopy(module).train()(images.clone())
    except Exception as error:
        raise OptionError(
            f"The module {label} runs in evaluation mode alone; in training mode it raised "
            f"{type(error).__name__}: {first_line(error)}\n"
            "Next: pass a module that takes images[N, 3, H, W] in both."
        ) from error
    if isinstance(found, Tensor) and tuple(found.shape) == shape:
        return
    what = _listed(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise OptionError(
        f"The module {label} returns {_listed(shape)}, and {what} in training mode.\n"
        "Next: let it return the same in both; models of torchvision with auxiliary classifiers do so with "
        "module.aux_logits = False."
    )


def _map_layout(module: nn.Module, size: tuple[int, int, int], shape: tuple[int, ...], label: str) -> ModuleOutput:
    grows = _growing(module, size)
    channels_first = grows <= {2, 3} if grows is not None else shape[2] == shape[3] != shape[1]
    # A map of such images would not be square either, so equal sides at the end prove nothing.
    if grows is None and size[1] != size[2]:
        channels_first = False
    if grows == set() and shape[2:] != (1, 1):
        # Pooled to a few positions, whatever the size of the image: nothing says which dimension is which.
        channels_first = shape[2] == shape[3] != shape[1]
    if not channels_first:
        raise OptionError(
            f"The module {label} returns {_listed(shape)}, and that the channels are the second dimension, [N, C, H, W]"
            ", does not show.\nNext: wrap it in a module that returns features[N, F], or permutes the channels to there"
            ": x.permute(0, 3, 1, 2)."
        )
    width = shape[1]
    if shape[2:] == (1, 1) and not grows:
        return ModuleOutput(
            width, pool_mean, None, "its output is a single position", f"it returns features[N, {width}, 1, 1]"
        )
    words = f"it returns a map[N, {width}, H, W], and the pooled features are its mean over the positions"
    return ModuleOutput(width, pool_mean, call, "", words)


def _growing(module: nn.Module, size: tuple[int, int, int]) -> set[int] | None:
    """The dimensions of the output that grow with the image; None where the module takes no larger ones."""
    shapes = []
    try:
        for factor in (1, 2):
            with torch.device("meta"), torch.no_grad():
                images = torch.empty(_IMAGES, size[0], factor * size[1], factor * size[2])
                shapes.append(tuple(on_meta(module)(images).shape))
    except Exception:  # an assertion, a shape mismatch: modules reject a size with all kinds of errors
        return None
    if len(shapes[0]) != len(shapes[1]):
        return None
    return {number for number, (one, two) in enumerate(zip(*shapes, strict=True)) if one != two}


def classifier_warning(module: nn.Module, layout: ModuleOutput, label: str) -> str:
    """A sentence where the module looks like a whole classifier, whose output a head would get; else empty."""
    # The last one in the order of definition, which in libraries is the classifier.
    name, before, classes = next(reversed([*_layers(module)]), ("", 0, 0))
    if classes != layout.width or layout.map is not None:
        return ""
    if layout.width not in _CLASSIFIERS and getattr(module, "num_classes", None) != layout.width:
        return ""
    step = f"{_written(name)} = torch.nn.Identity()" if name else "pass the part before it"
    if callable(getattr(module, "reset_classifier", None)):
        step = "module.reset_classifier(0)"
    return (
        f"The module {label} looks like a whole classifier: its last layer {name!r} gives {layout.width} classes, and "
        f"the head gets these in place of the {before} features before it. Next: {step}, then pass it."
    )


def _layers(module: nn.Module) -> Iterator[tuple[str, int, int]]:
    """(name, inputs, outputs) of every layer that may classify; SqueezeNet's is a convolution."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            yield name, part.in_features, part.out_features
        elif isinstance(part, nn.Conv2d):
            yield name, part.in_channels, part.out_channels


def _written(name: str) -> str:
    """`classifier.3` as Python writes it: `module.classifier[3]`."""
    return re.sub(r"\.(\d+)", r"[\1]", f"module.{name}")


def frozen_warning(module: nn.Module, label: str) -> str:
    """A sentence where parameters were frozen before the module was passed, which zoo does not look at; else empty."""
    parameters = dict(module.named_parameters())
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if not frozen:
        return ""
    return (
        f"{len(frozen)} of {len(parameters)} parameters of the module {label} have requires_grad=False "
        f"({some(frozen, 3)}). zoo does not look at that: the recipe says what trains, in these too. Next: choose a "
        "recipe that keeps them frozen, such as head_only."
    )


def untrained_warning(module: nn.Module, label: str) -> str:
    """A sentence where the module's batch norms have seen no batch, so that it is not trained; else empty."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not norms or any(_has_seen_batches(norm) for norm in norms):
        return ""
    return (
        f"The module {label} looks untrained: its batch norms have seen no batch. The recipes that freeze it first "
        "then train on random features. Next: load its weights before it is passed, or train from scratch, with "
        "recipe='full'."
    )


def _has_seen_batches(norm: _BatchNorm) -> bool:
    assert norm.running_mean is not None and norm.running_var is not None
    return bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _plain_tensors(module: nn.Module) -> Iterator[str]:
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{name}.{attribute}".lstrip(".")


def _listed(shape: tuple[int, ...] | torch.Size) -> str:
    return str(list(shape))
