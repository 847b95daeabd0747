"""The groups of a timm model, ordered from input to output: a partition of its parameters and buffers.

timm defines groups (`group_matcher(coarse=True)`) for all but a few classes; for those, the model's structure decides.
A final norm or a pointwise convolution before the classifier, which timm makes a group of its own, joins the stage
before it, so that `last:1` is always the last stage of blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import zoo
from timm.models import group_parameters
from torch import Tensor, nn

Stages = list[list[str]]
"""Parameter names, one list per group, from input to output."""

# Matchers in timm's notation, for classes whose own matcher does not follow the order of execution: CaiT's token-only
# blocks run after all others, and CoaT's blocks share the position encodings of their stage.
_MATCHERS: dict[str, dict[str, Any]] = {
    "Cait": {
        "stem": r"^cls_token|pos_embed|patch_embed",
        "blocks": r"^blocks\.(\d+)",
        "blocks_token_only": [(r"^blocks_token_only\.(\d+)", None), (r"^norm", (99999,))],
    },
    "CoaT": {
        "stem": r"^cls_token1|patch_embed1",
        "serial_blocks": r"^(?:cls_token|patch_embed|cpe|crpe|serial_blocks)(\d)",
        "parallel_blocks": [(r"^parallel_blocks\.(\d+)", None), (r"^norm|aggregate", (99999,))],
    },
}
# Every block uses these, so their parameters belong before the first one. timm's matchers put them at the end.
_SHARED_BY_ALL = ("rope.", "shared_rel_pos.")
# A stage with at most this many weights, all pointwise, is a projection after the last stage of blocks.
_PROJECTION_WEIGHTS = 2
# One with at most 4 weights and less than an eighth of the parameters of the stage before is an appendix of it.
_APPENDIX_WEIGHTS, _APPENDIX = 4, 8
# A learned pooling (SigLIP's, CLIP's) is no stage of blocks, whatever its size.
_POOLINGS = ("attn_pool", "neck")


def find_groups(model: nn.Module) -> tuple[zoo.Group, ...]:
    """Return the groups of a model that was built with `num_classes=0`. The first is called `stem`."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stages = _without_weightless(_by_matcher(model) or _by_structure(model), shapes)
    names = _names(stages)
    stages, names = _without_appendices(stages, names, shapes)
    members = _members(model, stages)
    return tuple(zoo.Group(name=name, members=tuple(group)) for name, group in zip(names, members, strict=True))


def _by_matcher(model: nn.Module) -> Stages | None:
    """Return timm's own coarse grouping, or None if the class has none."""
    matcher = _MATCHERS.get(type(model).__name__)
    if matcher is None:
        group_matcher: Any = getattr(model, "group_matcher", None)
        try:
            matcher = group_matcher(coarse=True) if group_matcher else None
        except AssertionError:  # RDNet: "coarse grouping is not implemented"
            matcher = None
        if matcher is None:
            return None
    by_id: dict[int, list[str]] = {}
    for name, layer in group_parameters(model, matcher, reverse=True).items():
        by_id.setdefault(0 if name.startswith(_SHARED_BY_ALL) else layer, []).append(name)
    return [by_id[layer] for layer in sorted(by_id)]


def _by_structure(model: nn.Module) -> Stages:
    """Return a stage for each numbered block of the model's containers, and for each module between containers.

    The first stage has the model's own parameters (tokens, position embedding) and all modules before the containers.
    """
    stages: Stages = [[name for name, _ in model.named_parameters(recurse=False)]]
    in_blocks = False
    for name, child in model.named_children():
        if _holds_blocks(child):
            in_blocks = True
            stages += [_parameters(block, f"{name}.{number}.") for number, block in child.named_children()]
        elif in_blocks:
            stages.append(_parameters(child, f"{name}."))
        else:
            stages[0] += _parameters(child, f"{name}.")
    return [stage for stage in stages if stage]


def _holds_blocks(module: nn.Module) -> bool:
    """Whether the children are numbered and each has children of its own. A stem's children are single layers."""
    children = list(module.named_children())
    return len(children) > 1 and all(name.isdigit() and any(child.children()) for name, child in children)


def _parameters(module: nn.Module, prefix: str) -> list[str]:
    return [prefix + name for name, _ in module.named_parameters()]


def _weights(stage: Iterable[str], shapes: dict[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the shapes of the stage's weights, without scales and biases."""
    return [shapes[name] for name in stage if len(shapes[name]) > 1]


def _size(stage: Iterable[str], shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(prod(shapes[name]) for name in stage)


def _without_weightless(stages: Stages, shapes: dict[str, tuple[int, ...]]) -> Stages:
    """Join stages that have only norms and biases to the stage before, or, at the start, to the one after."""
    joined: Stages = []
    for stage in stages:
        if joined and not (_weights(stage, shapes) and _weights(joined[-1], shapes)):
            joined[-1] = joined[-1] + stage
        else:
            joined.append(stage)
    return joined


def _without_appendices(
    stages: Stages, names: list[str], shapes: dict[str, tuple[int, ...]]
) -> tuple[Stages, list[str]]:
    """Join projections, small necks and learned poolings at the end to the stage before them."""
    stages, names = list(stages), list(names)
    while len(stages) > 2 and (names[-1] in _POOLINGS or _is_appendix(stages[-1], stages[-2], shapes)):
        appendix = stages.pop()
        stages[-1] = stages[-1] + appendix
        names.pop()
    return stages, names


def _is_appendix(last: list[str], before: list[str], shapes: dict[str, tuple[int, ...]]) -> bool:
    weights = _weights(last, shapes)
    projection = len(weights) <= _PROJECTION_WEIGHTS and all(prod(shape[2:]) == 1 for shape in weights)
    small = len(weights) <= _APPENDIX_WEIGHTS and _size(last, shapes) * _APPENDIX < _size(before, shapes)
    return projection or small


def _names(stages: Stages) -> list[str]:
    """Return `stem`, then for each stage the dotted name of the largest module that lies entirely in it."""
    stage_of = {name: index for index, stage in enumerate(stages) for name in stage}
    names = ["stem"]
    for index in range(1, len(stages)):
        name = _name(index, stage_of)
        # In zoo, `head` is the classifier on top of the backbone.
        name = "neck" if name == "head" else name
        names.append(f"{name}.{index}" if name in names else name)
    return names


def _name(index: int, stage_of: dict[str, int]) -> str:
    # Descend into the child with most of the stage's parameters until a module has no parameters of other stages.
    prefix = ""
    while True:
        children = [
            name[len(prefix) :].split(".")[0]
            for name, stage in stage_of.items()
            if stage == index and name.startswith(prefix)
        ]
        path = prefix + max(dict.fromkeys(children), key=children.count)
        prefix = f"{path}."
        if all(stage == index for name, stage in stage_of.items() if name == path or name.startswith(prefix)):
            return path


def _members(model: nn.Module, stages: Stages) -> list[list[str]]:
    """Return each stage's members: names of modules that lie entirely in it, and of other parameters and buffers."""
    stage_of = {name: index for index, stage in enumerate(stages) for name in stage}
    tensors = dict(_tensors(model))
    placement = _Placement(
        stage_of={id(tensor): stage_of[name] for name, tensor in tensors.items() if name in stage_of},
        last=len(stages) - 1,
    )
    placement.place_root(model)
    return placement.members


class _Placement:
    """Assigns modules and tensors to stages in one walk over the module tree.

    Tensors are identified by `id`, not by name, because CoaT's blocks share modules.
    """

    def __init__(self, *, stage_of: dict[int, int], last: int) -> None:
        self.members: list[list[str]] = [[] for _ in range(last + 1)]
        self._stage_of = stage_of
        self._last = last
        self._done: set[int] = set()

    def place_root(self, model: nn.Module) -> None:
        """Assign everything in the model."""
        for name, parameter in model.named_parameters(recurse=False):
            self._place(self._stage_of[id(parameter)], name, [parameter])
        for name, buffer in model.named_buffers(recurse=False):
            # Buffers of the model itself scale its output (Gemma 4).
            self._place(self._last, name, [buffer])
        self._place_children(model, "", 0)

    def _place_children(self, module: nn.Module, prefix: str, before: int) -> None:
        """Assign the children. A module without parameters joins the stage of the module before it, `before`."""
        for name, child in module.named_children():
            before = self._place_module(child, prefix + name, before)

    def _place_module(self, module: nn.Module, path: str, before: int) -> int:
        tensors = [tensor for _, tensor in _tensors(module)]
        if tensors and all(id(tensor) in self._done for tensor in tensors):
            return before
        stages = {self._stage_of[id(tensor)] for tensor in tensors if id(tensor) in self._stage_of}
        stage = max(stages, default=before)
        if len(stages) <= 1 and not any(id(tensor) in self._done for tensor in tensors):
            self._place(stage, path, tensors)
            return stage
        for name, tensor in module.named_parameters(recurse=False):
            self._place(self._stage_of[id(tensor)], f"{path}.{name}", [tensor])
        for name, buffer in module.named_buffers(recurse=False):
            self._place(min(stages), f"{path}.{name}", [buffer])
        self._place_children(module, f"{path}.", min(stages))
        return stage

    def _place(self, stage: int, member: str, tensors: Sequence[Tensor]) -> None:
        if tensors and all(id(tensor) in self._done for tensor in tensors):
            return
        self.members[stage].append(member)
        self._done.update(id(tensor) for tensor in tensors)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
