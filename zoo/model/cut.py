"""A backbone cut in two between its groups, so that what comes before the first group that trains is computed once.

The backbone's own code is traced (torch.fx); modules that lie on one side of the cut are called as they are. So the
suffix trains the very parameters of the model, and what cannot be traced, or is no cut through one tensor, is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.errors import first_line
from zoo.model.groups import Partition

Features = Callable[[nn.Module, Tensor], Tensor]
_BACKBONE, _IMAGES = "backbone", "images"


class CannotCut(Exception):
    """The message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Cut:
    """`suffix(prefix(images)) == features(module, images)`; both call the modules of the model that was cut."""

    before: str
    """The first group of the suffix."""
    prefix: Callable[[Tensor], Tensor]
    """images[N, 3, H, W] -> what crosses the cut, [N, ...]"""
    suffix: Callable[[Tensor], Tensor]
    """What crosses the cut -> features."""


def cut_before(group: str, module: nn.Module, groups: Partition, features: Features, size: tuple[int, ...]) -> Cut:
    """Cut a backbone before one of its groups.

    Args:
        group: The first of the suffix; all before it are the prefix, and must not train.
        module: The backbone's.
        groups: Its partition.
        features: (module, images) -> features: what the whole of it computes.
        size: (3, height, width) of the images.

    Raises CannotCut.
    """
    late = frozenset(groups.names[groups.names.index(group) :])
    whole = _Whole(module, features)
    graph = _traced(whole, groups, late, size)
    crossing = _crossing(graph, groups, late)
    prefix, suffix = _prefix_of(graph, crossing), _suffix_of(graph, crossing)
    return Cut(group, fx.GraphModule(whole, prefix), fx.GraphModule(whole, suffix))


class _Whole(nn.Module):
    def __init__(self, module: nn.Module, features: Features) -> None:
        super().__init__()
        self.backbone = module
        self._features = features

    def forward(self, images: Tensor) -> Tensor:
        return self._features(self.backbone, images)


class _Tracer(fx.Tracer):
    def __init__(self, groups: Partition, late: Collection[str], example: Tensor) -> None:
        super().__init__()
        self._groups = groups
        self._late = late
        self._example = example
        self._known: dict[fx.Node, Any] = {}
        self._evaluating = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = _inside(module_qualified_name)
        held = self._groups.modules.get(name, frozenset())
        return bool(name) and (held.issubset(self._late) or held.isdisjoint(self._late))

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Which way the code goes for images of this size: timm asks whether an embedding of positions fits."""
        self._evaluating = True
        try:
            return bool(self._value(obj.node))
        finally:
            self._evaluating = False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _value(self, node: fx.Node) -> Any:
        if node not in self._known:
            self._known[node] = self._evaluated(node)
        return self._known[node]

    def _evaluated(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._example
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        args, kwargs = fx.map_arg(node.args, self._value), fx.map_arg(node.kwargs, self._value)
        if node.op == "call_module":
            return _at_rest(self.root.get_submodule(str(node.target)), args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _at_rest(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module puts out in evaluation mode: in training it would take the example into its statistics."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        return module.forward(*args, **kwargs)
    finally:
        for each, training in modes:
            each.training = training


def _traced(whole: _Whole, groups: Partition, late: Collection[str], size: tuple[int, ...]) -> fx.Graph:
    """Code outside the leaves must be the same in training and for any number of images."""
    modes = [(each, each.training) for each in whole.modules()]
    device = next(whole.parameters()).device
    graphs = []
    try:
        for training, images in ((True, 2), (False, 3)):
            whole.train(training)
            example = torch.zeros(images, *size, device=device)
            with torch.no_grad(), torch.device(device):
                graphs.append(_Tracer(groups, late, example).trace(whole))
    except Exception as error:  # tracing runs upstream's code on stand-ins: it refuses in any way
        reason = first_line(error)
        raise CannotCut(f"its code cannot be traced ({reason})") from None
    finally:
        for each, training in modes:
            each.training = training
    if str(graphs[0]) != str(graphs[1]):
        raise CannotCut("its code outside the groups is another in training, or for other numbers of images")
    return graphs[0]


def _crossing(graph: fx.Graph, groups: Partition, late: Collection[str]) -> fx.Node:
    """The one early node that depends on the images and that late ones use."""
    behind = _late_nodes(graph, groups, late)
    moving = _moving_nodes(graph)
    crossing = {
        used for node in graph.nodes if node in behind for used in node.all_input_nodes if used in moving - behind
    }
    if not behind or not crossing:
        raise CannotCut("nothing of it depends on the groups after the cut")
    if len(crossing) > 1:
        raise CannotCut(f"{len(crossing)} values cross the cut")
    found: fx.Node = crossing.pop()
    return found


def _late_nodes(graph: fx.Graph, groups: Partition, late: Collection[str]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        held: frozenset[str] = frozenset()
        if node.op == "call_module":
            held = groups.modules.get(_inside(str(node.target)), frozenset())
        elif node.op == "get_attr":
            held = frozenset([groups.tensors.get(_inside(str(node.target)), groups.names[0])])
        if node.op == "output" or not held.isdisjoint(late) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _moving_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Those that depend on the images."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _prefix_of(graph: fx.Graph, crossing: fx.Node) -> fx.Graph:
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in _needed_for(crossing, graph, {}):
        copies[node] = made.node_copy(node, copies.__getitem__)
    made.output(copies[crossing])
    made.lint()
    return made


def _suffix_of(graph: fx.Graph, crossing: fx.Node) -> fx.Graph:
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {crossing: made.placeholder("crossing")}
    (output,) = (node for node in graph.nodes if node.op == "output")
    # What depends on no image (an embedding of positions, say) costs nothing to compute on either side.
    for node in _needed_for(output, graph, copies):
        copies[node] = made.node_copy(node, copies.__getitem__)
    made.lint()
    return made


def _needed_for(last: fx.Node, graph: fx.Graph, known: Collection[fx.Node]) -> list[fx.Node]:
    """What must be computed for a node, itself included, in the graph's order."""
    needed: set[fx.Node] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node not in needed and node not in known:
            needed.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]


def _inside(name: str) -> str:
    """A name below the backbone, as its partition has it."""
    return name.removeprefix(_BACKBONE).removeprefix(".")
