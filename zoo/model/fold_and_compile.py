"""Make a model faster for inference alone: compile its backbone, or fold batch norms into convolutions.

Both change the last bits of the logits, so they are done only where the user asks for them, and never before training.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.errors import DeviceError, first_line
from zoo.model.model import Features, ZooModel
from zoo.specs.plan import Compute

_AFTER_NORM = ("drop", "act")
"""Modules inside timm's batch norms that run after the normalisation, in this order."""


def compile_backbone(model: ZooModel, *, batch: int) -> ZooModel:
    """Compile the backbone's forward pass with torch.compile, at once: it takes seconds to minutes.

    Compiled kernels add in another order, so logits differ as they do between two machines. The model takes any number
    of images afterwards, but must not be trained.

    Args:
        model: The model to compile; it is changed and returned.
        batch: Number of images to compile for. Other numbers are split and padded to it.

    Raises DeviceError where torch.compile fails, for want of a C++ compiler for instance.
    """
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            # torch.compile translates at the first call: one pass now shows here whether it works at all.
            model.replace_features(lambda features: _compile_for(features, batch))
            model.features(torch.zeros(batch, *model.preprocessing.input_size, device=device))
    except Exception as error:  # compilers and backends raise all kinds of exceptions
        raise DeviceError(
            f"torch.compile failed on {model.name} here: {first_line(error)}\n"
            "Next: leave compiling out; on a CPU it needs a C++ compiler such as g++."
        ) from error
    return model


def _compile_for(features: Features, batch: int) -> Features:
    compiled = torch.compile(features, dynamic=False)

    def run(backbone: nn.Module, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> features[N, ...], in padded batches: every other size would be compiled anew."""
        outputs = []
        for part in torch.split(images, batch):
            padding = part.new_zeros(batch - len(part), *part.shape[1:])
            layout = torch.channels_last if part.is_contiguous(memory_format=torch.channels_last) else None
            padded = torch.cat([part, padding]).contiguous(memory_format=layout or torch.contiguous_format)
            outputs.append(compiled(backbone, padded)[: len(part)])
        return torch.cat(outputs)

    return run


def fold_batch_norms(model: ZooModel, images: Tensor, *, tolerance: float) -> int:
    """Fold the backbone's batch norms into the convolutions before them, unless that changes the logits too much.

    In evaluation mode a batch norm scales and shifts each channel, as a convolution's weights and bias do, so both are
    one convolution (Jacob et al. 2018, arXiv:1712.05877, section 3.2). Each saves a pass over the activations.

    Args:
        model: A model in evaluation mode. If anything is folded, it can neither be trained nor saved afterwards,
            because names and weights are no longer the backbone's own.
        images: images[N, 3, H, W], preprocessed. The logits on them are compared in float32.
        tolerance: Largest change allowed, as a share of the largest logit. Beyond it the model is left as it was.

    Returns: The number of batch norms that were folded.
    """
    with torch.no_grad(), _in_float32(model):
        pairs, before = _find_pairs(model, images)
        if not pairs:
            return 0
        originals = {name: model.backbone.get_submodule(name) for pair in pairs for name in pair}
        for convolution, norm in pairs:
            _fold(model.backbone, convolution, norm)
        difference = (model(images) - before).abs().max()
    # This also guards what watching cannot see: a convolution whose output goes elsewhere, too, or that computes its
    # weights in each pass. A NaN is not `<=` anything.
    if difference <= tolerance * before.abs().max():
        return len(pairs)
    for name, module in originals.items():
        model.backbone.set_submodule(name, module)
    return 0


def _find_pairs(model: ZooModel, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Run images[N, 3, H, W]; return the foldable pairs of (convolution, batch norm) by name, and logits[N, classes].

    The pairs are found by watching the pass, because names and definitions do not tell what follows what. In a pair the
    batch norm takes the convolution's output, and each of the two runs once.
    """
    convolved: dict[int, tuple[str, Tensor]] = {}  # by id(output); holding the output keeps its id from being reused
    pairs: list[tuple[str, str]] = []
    runs: Counter[str] = Counter()

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[name] += 1
        if isinstance(module, nn.Conv2d):
            convolved[id(output)] = name, output
        elif inputs and id(inputs[0]) in convolved:
            pairs.append((convolved[id(inputs[0])][0], name))

    hooks = [
        module.register_forward_hook(lambda *call, name=name: watch(name, *call))
        for name, module in model.backbone.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, _BatchNorm) and module.running_var is not None)
    ]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    # What runs twice serves two places, and folded for the one it may be wrong in the other.
    return [pair for pair in pairs if all(runs[name] == 1 for name in pair)], logits


def _fold(backbone: nn.Module, convolution: str, norm: str) -> None:
    conv, batch_norm = backbone.get_submodule(convolution), backbone.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(batch_norm, _BatchNorm)
    assert batch_norm.running_mean is not None and batch_norm.running_var is not None
    # A shallow copy keeps hooks and options. Its parameters are replaced, and the original keeps its own to go back to.
    folded = copy.copy(conv)
    folded._parameters = dict(conv._parameters)
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        batch_norm.running_mean,
        batch_norm.running_var,
        batch_norm.eps,
        batch_norm.weight,
        batch_norm.bias,
    )
    backbone.set_submodule(convolution, folded)
    after = [
        getattr(batch_norm, name) for name in _AFTER_NORM if isinstance(getattr(batch_norm, name, None), nn.Module)
    ]
    backbone.set_submodule(norm, nn.Sequential(*after))


@contextmanager
def _in_float32(model: ZooModel) -> Iterator[None]:
    compute = model.compute
    model.compute = Compute("float32", compute.memory_format)
    try:
        yield
    finally:
        model.compute = compute
