"""The outputs of a backbone's groups, for a head that takes their scaled means beside the pooled features.

Which module's output stands for a group is found by running the backbone on the meta device at two sizes of image.
Dimensions that grow with the image are positions, and the one that stays is that of the channels, so no list of
architectures is needed. While the features are computed, forward hooks read these modules, and are removed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import PluginError
from zoo.model.groups import Partition, partition
from zoo.specs.backbone import Backbone, GroupOutput

Pool = Callable[[nn.Module, Tensor], Tensor]
"""(backbone, images[N, 3, H, W]) -> pooled features[N, F]."""
IMAGES = 3
"""How many images go through the backbone; a first dimension of another size is not that of the images."""
EPS = 1e-12
"""Added to the mean square, for outputs that are zero everywhere."""


class NoLayers(Exception):
    """No output of the backbone's groups can be pooled. The message is the reason, in words that end a sentence."""


def find_outputs(build: Callable[[tuple[int, int]], Backbone], size: tuple[int, int]) -> tuple[GroupOutput, ...]:
    """Find the output of every group that has one, from input to output.

    Args:
        build: Builds the backbone on the current default device, for images of (height, width) pixels.
        size: The (height, width) that it is to be used with.

    Raises NoLayers, and whatever building or running the backbone raises.
    """
    with torch.device("meta"):
        built = build(size)
    groups = partition(built.module, built.groups, backbone="the backbone")
    return choose_outputs(groups, watch_pass(built, _blank(size)), larger_pass(build, size))


@dataclass(frozen=True, slots=True)
class Passed:
    """What was called in one pass through a backbone."""

    shapes: dict[str, list[list[tuple[int, ...]] | None]] = field(default_factory=dict)
    """Module -> for each call, in the order in which modules return, the shapes of the tensors that it returned; None
    for something else."""

    def once(self, name: str) -> list[tuple[int, ...]]:
        """The shapes that a module returned, if it was called once and returned tensors; else none."""
        calls = self.shapes.get(name, [])
        return (calls[0] or []) if len(calls) == 1 else []


def watch_pass(built: Backbone, images: Tensor) -> Passed:
    """Run images[N, 3, H, W] through a backbone on the meta device, N being `IMAGES`, and note what is called."""
    passed = Passed()

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = _tensors_in(output)
            shapes = None if found is None else [tuple(each.shape) for each in found]
            passed.shapes.setdefault(name, []).append(shapes)

        return hook

    modes = [(module, module.training) for module in built.module.modules()]
    hooks = [module.register_forward_hook(note(name)) for name, module in built.module.named_modules() if name]
    built.module.eval()
    try:
        with torch.device("meta"), torch.no_grad():
            built.pool(built.module, images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return passed


def larger_pass(build: Callable[[tuple[int, int]], Backbone], size: tuple[int, int]) -> Passed:
    """Build the backbone anew for images of twice the size, and note what is called in a pass. Raises NoLayers."""
    # Twice, as then every stride and window that divides the sides divides these as well.
    larger = (2 * size[0], 2 * size[1])
    try:
        with torch.device("meta"):
            built = build(larger)
        return watch_pass(built, _blank(larger))
    except Exception as error:  # an assertion, a shape mismatch: architectures reject a size with all kinds of errors
        raise NoLayers(
            f"its positions are told from its channels by images of twice the size, and it does not take images of "
            f"{larger[0]}x{larger[1]}"
        ) from error


def _blank(size: tuple[int, int]) -> Tensor:
    """images[N, 3, H, W] of (height, width) pixels, without values."""
    return torch.empty(IMAGES, 3, *size, device="meta")


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """What the dimensions of a module's output are."""

    channels: tuple[int, ...]
    """Of each tensor, the dimension of the channels; empty where that of one of them is not clear."""
    positions: bool
    """Whether any other dimension grows with the image."""


def layout_of(small: Sequence[Sequence[int]], large: Sequence[Sequence[int]]) -> OutputLayout:
    """Tell the layout of a module's output from its tensors' shapes for images of two sizes."""
    if not small or len(small) != len(large):
        return OutputLayout((), positions=False)
    channels = [_channel_dimension(*shapes) for shapes in zip(small, large, strict=True)]
    known = tuple(dimension for dimension in channels if dimension is not None)
    return OutputLayout(known if len(known) == len(channels) else (), positions=small != large)


def choose_outputs(groups: Partition, once: Passed, twice: Passed) -> tuple[GroupOutput, ...]:
    """Choose the output of every group from two passes, the second with larger images. Raises NoLayers."""
    return choose_by_layout(groups, once, lambda name: layout_of(once.once(name), twice.once(name)))


def choose_by_layout(
    groups: Partition, passed: Passed, layout: Callable[[str], OutputLayout]
) -> tuple[GroupOutput, ...]:
    """Choose the output of every group from one pass; `layout` tells it of a module by name. Raises NoLayers."""
    found = [_choose_output(group, groups, passed, layout) for group in groups.names]
    outputs = tuple(each for each in found if each is not None)
    if not outputs:
        raise NoLayers("of none of its groups is it clear which dimension of the output is that of the channels")
    return outputs


def _choose_output(
    group: str, groups: Partition, passed: Passed, layout: Callable[[str], OutputLayout]
) -> GroupOutput | None:
    """The last output with positions whose channels are known; where there is none, the last one without positions.

    A group may end with what comes after the pooling, such as a norm. None: the group has no output of its own.
    """
    otherwise: GroupOutput | None = None
    for name in reversed(_outermost(group, groups, passed)):
        found = layout(name)
        if not found.channels:
            continue
        shapes = passed.once(name)
        width = sum(shape[dimension] for shape, dimension in zip(shapes, found.channels, strict=True))
        output = GroupOutput(group=group, module=name, channels=found.channels, width=width)
        if found.positions:
            return output
        otherwise = otherwise or output
    return otherwise


def _outermost(group: str, groups: Partition, passed: Passed) -> list[str]:
    """The modules that were called, lie in this group alone, and are in no other such module; in the order of return.

    A part of a block is not on the way that its output goes, so only blocks and what is between them are asked.
    """
    inside = {name for name in passed.shapes if groups.modules[name] == frozenset([group])}
    return [name for name in passed.shapes if name in inside and inside.isdisjoint(_ancestors(name))]


def _ancestors(name: str) -> list[str]:
    """`a.b.c` -> `a.b`, `a`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]


def _channel_dimension(small: Sequence[int], large: Sequence[int]) -> int | None:
    """The one dimension that is as long for larger images; None where that is none or several."""
    if len(small) != len(large) or len(small) < 2 or not small[0] == large[0] == IMAGES:
        return None
    same = [number for number in range(1, len(small)) if small[number] == large[number]]
    # features[N, C] have no positions: their one dimension is that of the channels, of whatever length.
    if len(small) == 2:
        return 1 if same else None
    # A dimension of length 1 stays as it is for any image, and tells nothing.
    long = [number for number in same if small[number] > 1]
    return long[0] if len(long) == 1 else None


def layer_means(pool: Pool, outputs: Sequence[GroupOutput]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Make the function (backbone, images[N, 3, H, W]) -> features[N, L], in float32.

    These are the pooled features[N, F], followed by the mean of every group's output over its positions, each divided
    by its root mean square, so that all groups have one scale (as in Head2Toe, arXiv:2201.03529).
    """

    def features(module: nn.Module, images: Tensor) -> Tensor:
        with _read(module, outputs) as means:
            pooled = pool(module, images)
        missing = [each.group for each in outputs if each.group not in means]
        if missing:
            raise PluginError(f"The output of the group {missing[0]} was not computed: its module was not called.")
        return torch.cat([pooled.float(), *(_scaled(means[each.group]) for each in outputs)], dim=1)

    return features


def output_mean(pool: Pool, output: GroupOutput) -> Callable[[nn.Module, Tensor], Tensor]:
    """Make the function (backbone, images[N, 3, H, W]) -> mean[N, C] of one group's output, in float32, not scaled."""

    def features(module: nn.Module, images: Tensor) -> Tensor:
        with _read(module, [output]) as means:
            pool(module, images)
        if output.group not in means:
            raise PluginError(f"The output of the group {output.group} was not computed: its module was not called.")
        return means[output.group]

    return features


def check_outputs(module: nn.Module, outputs: Sequence[GroupOutput]) -> None:
    """Raise PluginError where a backbone lacks a module that an output is to be read from."""
    names = {name for name, _ in module.named_modules()}
    absent = [each.module for each in outputs if each.module not in names]
    if absent:
        raise PluginError(f"The output of a group is to be read from {absent[0]!r}, which the backbone does not have.")


@contextmanager
def _read(module: nn.Module, outputs: Sequence[GroupOutput]) -> Iterator[Mapping[str, Tensor]]:
    """Gather group -> mean[N, C] of what the backbone's modules return in this context."""
    means: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook_of(wanted: GroupOutput) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            # Another thread may use the same classifier: its images are not ours.
            if threading.get_ident() != thread:
                return
            if wanted.group in means:
                raise PluginError(f"{wanted.module}, the output of the group {wanted.group}, was called twice.")
            # At once: what comes next may change the output in place.
            means[wanted.group] = _mean(output, wanted)

        return hook

    # By name, each time: adapters and folded batch norms put other modules in their place.
    hooks = [module.get_submodule(each.module).register_forward_hook(hook_of(each)) for each in outputs]
    try:
        yield means
    finally:
        for hook in hooks:
            hook.remove()


def _mean(output: Any, wanted: GroupOutput) -> Tensor:
    """A module's output, one tensor or several, in float32 -> the mean over all positions, [N, C]."""
    found = _tensors_in(output) or []
    known = len(found) == len(wanted.channels) and all(
        channels < tensor.ndim for tensor, channels in zip(found, wanted.channels, strict=True)
    )
    if not known or wanted.width != sum(each.shape[at] for each, at in zip(found, wanted.channels, strict=True)):
        raise PluginError(f"{wanted.module} returned something else than when the outputs of the groups were found.")
    means = []
    for tensor, channels in zip(found, wanted.channels, strict=True):
        positions = [number for number in range(1, tensor.ndim) if number != channels]
        # Widened first: in bfloat16, the mean of all positions would be rounded to 8 bits.
        means.append(tensor.float().mean(positions) if positions else tensor.float())
    return means[0] if len(means) == 1 else torch.cat(means, dim=1)


def _scaled(mean: Tensor) -> Tensor:
    """mean[N, C] of each image divided by its root mean square over the channels; zeros stay zeros."""
    return mean * (mean.square().mean(dim=1, keepdim=True) + EPS).rsqrt()


def _tensors_in(output: Any) -> list[Tensor] | None:
    """The tensors that a module returned, in order, without what is beside them (sizes); None if there are none."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, (tuple, list)):
        return None
    return [each for each in output if isinstance(each, Tensor)] or None
