"""The groups of a torchvision model, ordered from input to output, in one table of families.

A lone norm, the last convolution before the pooling and small hidden layers belong to the last stage, so that `last:1`
always selects blocks. Only the large hidden layers of AlexNet and VGG are a group of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import zoo
from torch import nn

_MAX_LAYER_GROUPS = 12
"""A ViT with more layers has several layers per group."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """Groups whose members have the same names in the whole family."""

    groups: dict[str, str]
    """The members of each group, separated by spaces."""

    def members(self, module: nn.Module) -> dict[str, list[str]]:
        """Return the names of each group's modules and tensors."""
        return {name: members.split() for name, members in self.groups.items()}


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """Groups that are slices of a sequence's children. Where each starts depends on the architecture."""

    sequence: str
    """Name of the sequence's module."""
    starts: Callable[[Sequence[nn.Module]], Iterable[int]]
    """Returns, for the sequence's children, the index at which each slice starts."""
    name: Callable[[int, int, int], str]
    """Returns the group's name for (number of the slice from 0, index of its first child, of its last child)."""
    stem: str = ""
    """Members before the sequence, which are a group of their own."""
    tail: str = ""
    """Members after the sequence, which belong to its last slice."""
    classifier: str = ""
    """Members after the sequence, which are a group of their own."""

    def members(self, module: nn.Module) -> dict[str, list[str]]:
        """Return the names of each group's modules and tensors."""
        named = dict(module.get_submodule(self.sequence).named_children())
        names, starts = list(named), list(self.starts(list(named.values())))
        groups = {"stem": self.stem.split()}
        last = ""
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(names)], strict=True)):
            last = self.name(number, start, end - 1)
            groups[last] = [f"{self.sequence}.{child}" for child in names[start:end]]
        groups[last] += self.tail.split()
        groups["classifier"] = self.classifier.split()
        return groups


def _after_pools(children: Sequence[nn.Module]) -> Iterable[int]:
    pools = [number for number, child in enumerate(children) if isinstance(child, nn.MaxPool2d)]
    return [0, *(pool + 1 for pool in pools if pool + 1 < len(children))]


def _each_block(children: Sequence[nn.Module]) -> Iterable[int]:
    # The last child, the convolution before the pooling, belongs to the last block.
    return range(len(children) - 1)


def _at_new_widths(children: Sequence[nn.Module]) -> Iterable[int]:
    # MobileNet's blocks are siblings. Consecutive ones of equal width are one row of the paper's table.
    widths = [child.out_channels for child in children[:-1]]
    return [number for number, width in enumerate(widths) if number in (0, 1) or width != widths[number - 1]]


def _equal_runs(children: Sequence[nn.Module]) -> Iterable[int]:
    depth = len(children)
    run = next(run for run in range(1, depth + 1) if depth % run == 0 and depth // run <= _MAX_LAYER_GROUPS)
    return range(0, depth, run)


def _stem_then_stages(number: int, first: int, last: int) -> str:
    return f"stage{number}" if number else "stem"


def _stages(number: int, first: int, last: int) -> str:
    return f"stage{number + 1}"


def _layers(number: int, first: int, last: int) -> str:
    return f"layer{first}" if first == last else f"layers{first}-{last}"


# The groups of each family, by a pattern that the start of an architecture's name matches.
_FAMILIES: dict[str, Named | Sliced] = {
    "resnet|resnext|wide_resnet": Named(
        groups={
            "stem": "conv1 bn1",
            "layer1": "layer1",
            "layer2": "layer2",
            "layer3": "layer3",
            "layer4": "layer4",
        }
    ),
    "regnet": Named(
        groups={
            "stem": "stem",
            "block1": "trunk_output.block1",
            "block2": "trunk_output.block2",
            "block3": "trunk_output.block3",
            "block4": "trunk_output.block4",
        }
    ),
    "densenet": Named(
        groups={
            "stem": "features.conv0 features.norm0",
            "denseblock1": "features.denseblock1 features.transition1",
            "denseblock2": "features.denseblock2 features.transition2",
            "denseblock3": "features.denseblock3 features.transition3",
            "denseblock4": "features.denseblock4 features.norm5",
        }
    ),
    "convnext": Named(
        groups={
            "stem": "features.0",
            "stage1": "features.1",
            "stage2": "features.2 features.3",
            "stage3": "features.4 features.5",
            "stage4": "features.6 features.7 classifier.0",
        }
    ),
    "swin": Named(
        groups={
            "stem": "features.0",
            "stage1": "features.1",
            "stage2": "features.2 features.3",
            "stage3": "features.4 features.5",
            "stage4": "features.6 features.7 norm",
        }
    ),
    "maxvit": Named(
        groups={
            "stem": "stem",
            "block1": "blocks.0",
            "block2": "blocks.1",
            "block3": "blocks.2",
            "block4": "blocks.3 classifier.2 classifier.3",
        }
    ),
    "shufflenet": Named(
        groups={"stem": "conv1", "stage2": "stage2", "stage3": "stage3", "stage4": "stage4 conv5"},
    ),
    "mnasnet": Named(
        groups={
            "stem": "layers.0 layers.1 layers.3 layers.4 layers.6 layers.7",
            "stage1": "layers.8",
            "stage2": "layers.9",
            "stage3": "layers.10",
            "stage4": "layers.11",
            "stage5": "layers.12",
            "stage6": "layers.13 layers.14 layers.15",
        }
    ),
    "googlenet": Named(
        groups={
            "stem": "conv1 conv2 conv3",
            "inception3": "inception3a inception3b",
            "inception4": "inception4a inception4b inception4c inception4d inception4e",
            "inception5": "inception5a inception5b",
        }
    ),
    "inception_v3": Named(
        groups={
            "stem": "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3",
            "mixed5": "Mixed_5b Mixed_5c Mixed_5d",
            "mixed6": "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e",
            "mixed7": "Mixed_7a Mixed_7b Mixed_7c",
        }
    ),
    "alexnet": Named(
        groups={
            "conv1": "features.0",
            "conv2": "features.3",
            "conv3": "features.6",
            "conv4": "features.8",
            "conv5": "features.10",
            "classifier": "classifier.1 classifier.4",
        }
    ),
    "vgg": Sliced(sequence="features", starts=_after_pools, name=_stages, classifier="classifier.0 classifier.3"),
    "squeezenet": Sliced(sequence="features", starts=_after_pools, name=_stem_then_stages),
    "efficientnet": Sliced(sequence="features", starts=_each_block, name=_stem_then_stages),
    "mobilenet_v2": Sliced(sequence="features", starts=_at_new_widths, name=_stem_then_stages),
    "mobilenet_v3": Sliced(sequence="features", starts=_at_new_widths, name=_stem_then_stages, tail="classifier.0"),
    "vit_": Sliced(
        sequence="encoder.layers",
        starts=_equal_runs,
        name=_layers,
        stem="class_token conv_proj encoder.pos_embedding",
        tail="encoder.ln",
    ),
}


def find_groups(architecture: str, module: nn.Module) -> tuple[zoo.Group, ...]:
    """Return the groups of a model without classifier. Those of an unknown family are the model's children."""
    family = next((family for pattern, family in _FAMILIES.items() if re.match(pattern, architecture)), None)
    groups = family.members(module) if family else _children(module)
    # Members without tensors (activations, poolings, layers that this architecture lacks) are left out.
    names = _names_with_tensors(module)
    filtered = {name: tuple(member for member in members if member in names) for name, members in groups.items()}
    return tuple(zoo.Group(name=name, members=members) for name, members in filtered.items() if members)


def _names_with_tensors(module: nn.Module) -> set[str]:
    """Return the names of all tensors, and of all modules that hold one."""
    paths = [name.split(".") for name, _ in [*module.named_parameters(), *module.named_buffers()]]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def _children(module: nn.Module) -> dict[str, list[str]]:
    own = [name for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]]
    return {"stem": own, **{name: [name] for name, _ in module.named_children()}}
