"""A timm model's parts, ordered from input to output, as an exact partition of its parameters and buffers.

timm knows the parts (`group_matcher(coarse=True)`) for all but a few classes; there the model's structure tells. What
timm calls a group of its own but is none to a person (a final norm, a pointwise convolution before the classifier)
joins the stage before it, so that `last:1` is the last stage of blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import zoo
from timm.models import group_parameters
from torch import Tensor, nn

Stages = list[list[str]]
"""Parameter names, one list for each part, in the order in which the input passes them."""

# Matchers in timm's notation, for classes whose own does not follow the order in which the parts run: CaiT's token-only
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
# Used by every block, so what they hold belongs before the first one; timm's matchers leave them to the end.
_SHARED_BY_ALL = ("rope.", "shared_rel_pos.")
# A stage with at most this many weights, all pointwise, is a projection between the last stage and the classifier.
_PROJECTION_WEIGHTS = 2
# One with a few weights and fewer parameters than the stage before, divided by this, is an appendix of that stage.
_APPENDIX_WEIGHTS, _APPENDIX = 4, 8
# A learned pooling (SigLIP's, CLIP's) is no stage of blocks, however large.
_POOLINGS = ("attn_pool", "neck")


def groups(model: nn.Module) -> tuple[zoo.Group, ...]:
    """The parts of a model built with `num_classes=0`; the first is called `stem`."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stages = _without_weightless(_by_matcher(model) or _by_structure(model), shapes)
    names = _names(stages)
    stages, names = _without_appendices(stages, names, shapes)
    members = _members(model, stages)
    return tuple(zoo.Group(name=name, members=tuple(held)) for name, held in zip(names, members, strict=True))


def _by_matcher(model: nn.Module) -> Stages | None:
    """timm's own coarse grouping; None where the class has none."""
    matcher = _MATCHERS.get(type(model).__name__)
    if matcher is None:
        offered: Any = getattr(model, "group_matcher", None)
        try:
            matcher = offered(coarse=True) if offered else None
        except AssertionError:  # RDNet: "coarse grouping is not implemented"
            matcher = None
        if matcher is None:
            return None
    by_id: dict[int, list[str]] = {}
    for name, layer in group_parameters(model, matcher, reverse=True).items():
        by_id.setdefault(0 if name.startswith(_SHARED_BY_ALL) else layer, []).append(name)
    return [by_id[layer] for layer in sorted(by_id)]


def _by_structure(model: nn.Module) -> Stages:
    """One stage for each numbered block of the model's containers, and for what stands between them.

    The model's own parameters (tokens, position embedding) and all before the first container are the first stage.
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
    """Whether its children are numbered and each has parts of its own (a stem's are single layers)."""
    children = list(module.named_children())
    return len(children) > 1 and all(name.isdigit() and any(child.children()) for name, child in children)


def _parameters(module: nn.Module, prefix: str) -> list[str]:
    return [prefix + name for name, _ in module.named_parameters()]


def _weights(stage: Iterable[str], shapes: dict[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes that are more than a scale or a bias."""
    return [shapes[name] for name in stage if len(shapes[name]) > 1]


def _size(stage: Iterable[str], shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(prod(shapes[name]) for name in stage)


def _without_weightless(stages: Stages, shapes: dict[str, tuple[int, ...]]) -> Stages:
    """Parts that hold only norms and biases joined to the part before, or, at the front, to the one after."""
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
    """Projections, small necks and learned poolings at the end joined to the stage before them."""
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
    """`stem`, then the dotted name of the module that lies in the stage entirely and makes up most of it."""
    whose = {name: index for index, stage in enumerate(stages) for name in stage}
    names = ["stem"]
    for index in range(1, len(stages)):
        name = _name(index, whose)
        # `head` is zoo's word for what the user trains on top.
        name = "neck" if name == "head" else name
        names.append(f"{name}.{index}" if name in names else name)
    return names


def _name(index: int, whose: dict[str, int]) -> str:
    prefix = ""
    while True:
        children = [
            name[len(prefix) :].split(".")[0]
            for name, owner in whose.items()
            if owner == index and name.startswith(prefix)
        ]
        path = prefix + max(dict.fromkeys(children), key=children.count)
        prefix = f"{path}."
        if all(owner == index for name, owner in whose.items() if name == path or name.startswith(prefix)):
            return path


def _members(model: nn.Module, stages: Stages) -> list[list[str]]:
    """The stages as module names where a whole module belongs to one, else as names of parameters and buffers."""
    whose = {name: index for index, stage in enumerate(stages) for name in stage}
    tensors = dict(_tensors(model))
    owner = {id(tensor): whose[name] for name, tensor in tensors.items() if name in whose}
    placed = _Placement(owner=owner, last=len(stages) - 1)
    placed.place_root(model)
    return placed.members


class _Placement:
    """Walks the module tree once; goes by the tensors' identity, because CoaT's blocks share modules."""

    def __init__(self, *, owner: dict[int, int], last: int) -> None:
        self.members: list[list[str]] = [[] for _ in range(last + 1)]
        self._owner = owner
        self._last = last
        self._done: set[int] = set()

    def place_root(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters(recurse=False):
            self._place(self._owner[id(parameter)], name, [parameter])
        for name, buffer in model.named_buffers(recurse=False):
            # A whole model's own buffers scale its output (Gemma 4).
            self._place(self._last, name, [buffer])
        self._place_children(model, "", 0)

    def _place_children(self, module: nn.Module, prefix: str, before: int) -> None:
        """`before` is the stage of what came before; a module without parameters goes there."""
        for name, child in module.named_children():
            before = self._place_module(child, prefix + name, before)

    def _place_module(self, module: nn.Module, path: str, before: int) -> int:
        tensors = [tensor for _, tensor in _tensors(module)]
        if tensors and all(id(tensor) in self._done for tensor in tensors):
            return before
        stages = {self._owner[id(tensor)] for tensor in tensors if id(tensor) in self._owner}
        stage = max(stages, default=before)
        if len(stages) <= 1 and not any(id(tensor) in self._done for tensor in tensors):
            self._place(stage, path, tensors)
            return stage
        for name, tensor in module.named_parameters(recurse=False):
            self._place(self._owner[id(tensor)], f"{path}.{name}", [tensor])
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
