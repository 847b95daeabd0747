"""Cut a backbone in two between its groups, so that the outputs of its frozen first part can be cached.

The backbone's own code is traced (torch.fx), and modules that lie on one side of the cut are called as they are. So
only the few lines between groups are traced, and the suffix trains the model's own parameters. A backbone whose code
cannot be traced, or with more than one tensor across the cut, cannot be cut.
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
"""(backbone, images[N, 3, H, W]) -> pooled features[N, F] or the map[N, C, H', W']."""
_BACKBONE = "backbone"


class CannotCut(Exception):
    """The backbone cannot be cut here. The message is the reason, in words that end a sentence."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A backbone in two parts: `suffix(prefix(images)) == features(module, images)`.

    Both parts call the modules of the backbone that was cut, so they see its parameters change.
    """

    before: str
    """The first group of the suffix."""
    prefix: Callable[[Tensor], Tensor]
    """images[N, 3, H, W] -> the outputs at the cut, [N, ...]."""
    suffix: Callable[[Tensor], Tensor]
    """The outputs at the cut, [N, ...] -> pooled features[N, F] or the map[N, C, H', W']."""


def cut_before(group: str, module: nn.Module, groups: Partition, features: Features, size: tuple[int, ...]) -> Cut:
    """Cut a backbone before one of its groups.

    Args:
        group: The first group of the suffix. The groups before it are the prefix, and must not train.
        module: The backbone.
        groups: Its groups.
        features: Computes the features that the head needs from the backbone and images.
        size: (3, height, width) of the images, in pixels.

    Raises CannotCut.
    """
    late = frozenset(groups.names[groups.names.index(group) :])
    whole = _Whole(module, features)
    graph = _trace(whole, groups, late, size)
    crossing = _find_crossing(graph, groups, late)
    prefix, suffix = _prefix_graph(graph, crossing), _suffix_graph(graph, crossing)
    return Cut(group, fx.GraphModule(whole, prefix), _KeepingItsInput(fx.GraphModule(whole, suffix), module))


class _KeepingItsInput:
    """A suffix that leaves its input as it is, for outputs at the cut are kept and used again.

    Its first layer may change what it gets, as `nn.Hardswish(inplace=True)` does. Whether one does is seen in the first
    pass in each mode. Only then later passes get a copy.
    """

    def __init__(self, suffix: fx.GraphModule, backbone: nn.Module) -> None:
        self._suffix = suffix
        self._backbone = backbone
        self._changes: dict[bool, bool] = {}

    def __call__(self, outputs: Tensor) -> Tensor:
        training = self._backbone.training
        # In inference mode torch does not count changes.
        if torch.is_inference_mode_enabled() or self._changes.get(training):
            return torch.as_tensor(self._suffix(outputs.clone()))
        if training in self._changes:
            return torch.as_tensor(self._suffix(outputs))
        own = outputs.clone()
        before = own._version
        features = self._suffix(own)
        self._changes[training] = own._version != before
        return torch.as_tensor(features)


class _Whole(nn.Module):
    """The backbone and its features function as one module, because torch.fx traces modules."""

    def __init__(self, module: nn.Module, features: Features) -> None:
        super().__init__()
        self.backbone = module
        self._features = features

    def forward(self, images: Tensor) -> Tensor:
        return self._features(self.backbone, images)


class _Tracer(fx.Tracer):
    """Traces the code between modules, and leaves modules that lie on one side of the cut as single calls."""

    def __init__(self, groups: Partition, late: Collection[str], example: Tensor) -> None:
        super().__init__()
        self._groups = groups
        self._late = late
        self._example = example
        self._values: dict[fx.Node, Any] = {}
        self._evaluating = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        name = _inside(module_qualified_name)
        # A container with groups of both sides is traced through; the cut runs inside it.
        held = self._groups.modules.get(name, frozenset())
        return bool(name) and (held.issubset(self._late) or held.isdisjoint(self._late))

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer a condition in the code with its value for the example.

        timm for one asks whether its position embedding fits the images. A graph for images of this size needs only
        the branch that they take.
        """
        self._evaluating = True
        try:
            return bool(self._value(obj.node))
        finally:
            self._evaluating = False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # While a condition is evaluated, modules get real tensors, and nothing is added to the graph.
        return forward(*args, **kwargs) if self._evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            self._values[node] = self._evaluate(node)
        return self._values[node]

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._example
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        args, kwargs = fx.map_arg(node.args, self._value), fx.map_arg(node.kwargs, self._value)
        if node.op == "call_module":
            return _call_in_eval_mode(self.root.get_submodule(str(node.target)), args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _call_in_eval_mode(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module in evaluation mode: in training mode the example would change its running statistics."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        return module.forward(*args, **kwargs)
    finally:
        for part, training in modes:
            part.training = training


def _trace(whole: _Whole, groups: Partition, late: Collection[str], size: tuple[int, ...]) -> fx.Graph:
    """Trace the backbone. Raises CannotCut where the graph depends on the mode or on the number of images."""
    modes = [(part, part.training) for part in whole.modules()]
    device = next(whole.parameters()).device
    graphs = []
    try:
        # What differs in training, or holds the number of images as a constant, shows as another graph.
        for training, images in ((True, 2), (False, 3)):
            whole.train(training)
            example = torch.zeros(images, *size, device=device)
            with torch.no_grad(), torch.device(device):
                graphs.append(_Tracer(groups, late, example).trace(whole))
    except Exception as error:  # upstream's code may fail in any way on the tracer's stand-ins for tensors
        reason = first_line(error)
        raise CannotCut(f"its code cannot be traced ({reason})") from None
    finally:
        for part, training in modes:
            part.training = training
    # As text: nodes of two graphs are never equal, and the text has every call with its arguments.
    if str(graphs[0]) != str(graphs[1]):
        raise CannotCut("its code outside the groups is another in training, or for other numbers of images")
    return graphs[0]


def _find_crossing(graph: fx.Graph, groups: Partition, late: Collection[str]) -> fx.Node:
    """Find the node whose output crosses the cut: an early one that depends on the images, and that late nodes use."""
    after = _late_nodes(graph, groups, late)
    # Values that depend on no image may be used on both sides, and are computed on both, so they do not cross.
    before = _nodes_of_images(graph) - after
    crossing = {used for node in graph.nodes if node in after for used in node.all_input_nodes if used in before}
    if not after or not crossing:
        raise CannotCut("nothing of it depends on the groups after the cut")
    if len(crossing) > 1:
        raise CannotCut(f"{len(crossing)} values cross the cut")
    node: fx.Node = crossing.pop()
    return node


def _late_nodes(graph: fx.Graph, groups: Partition, late: Collection[str]) -> set[fx.Node]:
    """Nodes that use a late group, and all that depend on those; the output is always one."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        held: frozenset[str] = frozenset()
        if node.op == "call_module":
            held = groups.modules.get(_inside(str(node.target)), frozenset())
        elif node.op == "get_attr":
            # A tensor that no group knows is no parameter or buffer: it never trains, and may be used before the cut.
            held = frozenset([groups.tensors.get(_inside(str(node.target)), groups.names[0])])
        if node.op == "output" or not held.isdisjoint(late) or not nodes.isdisjoint(node.all_input_nodes):
            nodes.add(node)
    return nodes


def _nodes_of_images(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose output depends on the images."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not nodes.isdisjoint(node.all_input_nodes):
            nodes.add(node)
    return nodes


def _prefix_graph(graph: fx.Graph, crossing: fx.Node) -> fx.Graph:
    prefix = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in _needed_for(crossing, graph, {}):
        copies[node] = prefix.node_copy(node, copies.__getitem__)
    prefix.output(copies[crossing])
    prefix.lint()
    return prefix


def _suffix_graph(graph: fx.Graph, crossing: fx.Node) -> fx.Graph:
    suffix = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {crossing: suffix.placeholder("crossing")}
    (output,) = (node for node in graph.nodes if node.op == "output")
    # Nodes that depend on no image (a position embedding, say) may be on both sides: computing them is cheap.
    for node in _needed_for(output, graph, copies):
        copies[node] = suffix.node_copy(node, copies.__getitem__)
    suffix.lint()
    return suffix


def _needed_for(last: fx.Node, graph: fx.Graph, known: Collection[fx.Node]) -> list[fx.Node]:
    """List the nodes that `last` depends on, itself included, in the graph's order; `known` ones are left out."""
    needed: set[fx.Node] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node not in needed and node not in known:
            needed.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph.nodes if node in needed]


def _inside(name: str) -> str:
    """Turn a name in the traced module into the name in the backbone, which `Partition` uses."""
    return name.removeprefix(_BACKBONE).removeprefix(".")
