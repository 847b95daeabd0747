"""A backbone's ordered groups as an exact partition, and the names of its tensors with and without adapters.

Every parameter and buffer of a backbone belongs to exactly one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from zoo.errors import PluginError
from zoo.specs.backbone import Group

_BASE_LAYER = "base_layer"
"""The name that peft gives to the original layer inside an adapted one."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The group of every tensor and module; all names are relative to the backbone."""

    names: tuple[str, ...]
    """Group names, input to output."""
    tensors: dict[str, str]
    """Parameter or buffer, saved or not -> group."""
    modules: dict[str, frozenset[str]]
    """Module -> the groups that have something in it; containers may have several."""
    shared: dict[str, str] = field(default_factory=dict)
    """Further name of a module or tensor that stands in several places -> its first name, which the others go by.
    A state dict has it under every one."""
    modeless: frozenset[str] = frozenset()
    """Recurrent layers without dropout. They compute the same in either mode, but cuDNN passes gradients through them
    in training mode alone: so they follow it where they are frozen, too, and what comes before them can train."""

    def first_name(self, name: str) -> str:
        """Return the first name of a tensor by any full name, `backbone.*` or `head.*`; nearly all have one alone."""
        inside = name.removeprefix("backbone.") if self.shared else name
        held = next((each for each in _prefixes(inside) if each in self.shared), None) if inside != name else None
        return name if held is None else f"backbone.{self.shared[held]}{inside.removeprefix(held)}"

    def parameters_of(self, group: str, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return a group's parameters by name, in the order of the backbone `module`."""
        return {name: parameter for name, parameter in module.named_parameters() if self.tensors[name] == group}


def partition(module: nn.Module, groups: Sequence[Group], *, backbone: str) -> Partition:
    """Assign everything in a backbone to its group.

    Args:
        module: The backbone.
        groups: Its groups from input to output.
        backbone: Its name, for messages.

    Raises PluginError, which names a member that is not covered, covered twice, or not in the backbone.
    """
    owner = _owners(groups, backbone)
    names = tuple(group.name for group in groups)
    existing = {name for name, _ in [*module.named_modules(), *module.named_parameters(), *module.named_buffers()]}
    absent = sorted(set(owner) - existing)
    if absent:
        raise PluginError(f"Groups of {backbone} name {absent[0]!r}, which the module does not have.")
    tensors = {name: _group_of(name, owner, backbone) for name, _ in module.named_parameters()}
    modules = _modules(module, tensors, names)
    for name, _ in module.named_buffers():
        # A buffer that no group lists goes with the module that owns it.
        explicit = {owner[prefix] for prefix in _prefixes(name) if prefix in owner}
        around = modules.get(name.rpartition(".")[0], frozenset(names[:1]))
        # Of several groups the earliest: its outputs may depend on the buffer, so it stays while that is frozen.
        tensors[name] = min(explicit or around, key=names.index)
    modeless = (name for name, each in module.named_modules() if isinstance(each, nn.RNNBase) and not each.dropout)
    return Partition(names, tensors, modules, _further_names(module), frozenset(modeless))


def _further_names(module: nn.Module) -> dict[str, str]:
    """Further name -> first name, of modules and tensors that stand in several places, as CoaT's position encodings."""
    first: dict[int, str] = {}
    named: tuple[Iterator[tuple[str, nn.Module | Tensor]], ...] = (
        module.named_modules(remove_duplicate=False),
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    return {name: held for names in named for name, each in names if (held := first.setdefault(id(each), name)) != name}


def _owners(groups: Sequence[Group], backbone: str) -> dict[str, str]:
    """Member -> group, as the groups list them."""
    owner: dict[str, str] = {}
    if not groups:
        raise PluginError(f"{backbone} has no groups; it needs at least one.")
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise PluginError(f"{backbone} has two groups of one name: {', '.join(names)}.")
    for group in groups:
        for member in group.members:
            if member in owner:
                raise PluginError(f"{backbone}: {member!r} is in the groups {owner[member]!r} and {group.name!r}.")
            owner[member] = group.name
    return owner


def _prefixes(name: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _group_of(name: str, owner: dict[str, str], backbone: str) -> str:
    holders = [prefix for prefix in _prefixes(name) if prefix in owner]
    if not holders:
        raise PluginError(f"{backbone}: the parameter {name!r} is in no group.")
    if len({owner[prefix] for prefix in holders}) > 1:
        raise PluginError(f"{backbone}: the parameter {name!r} is in several groups: {', '.join(holders)}.")
    return owner[holders[0]]


def _modules(module: nn.Module, tensors: dict[str, str], names: Sequence[str]) -> dict[str, frozenset[str]]:
    held: dict[str, set[str]] = {name: set() for name, _ in module.named_modules()}
    for tensor, group in tensors.items():
        # Every module around it, up to the backbone itself, whose name is empty.
        for prefix in ["", *_prefixes(tensor)[1:]]:
            if prefix in held:
                held[prefix].add(group)
    resolved: dict[str, frozenset[str]] = {}

    def visit(name: str, module: nn.Module, before: str) -> str:
        # A module without parameters (dropout, pooling) works on what the one before it returns, so it goes with that.
        groups = sorted(held[name], key=names.index)
        resolved[name] = frozenset(groups or [before])
        # A first child without parameters is a part of this container, and not of what came before that.
        inner = groups[0] if groups else before
        for child_name, child in module.named_children():
            full = f"{name}.{child_name}" if name else child_name
            if full in held:
                inner = visit(full, child, inner)
        return groups[-1] if groups else before

    visit("", module, names[0])
    return resolved


@dataclass(frozen=True, slots=True)
class AdaptedNames:
    """Translates the names of parameters, buffers and modules while low-rank adapters are in the backbone."""

    layers: frozenset[str] = frozenset()
    """The adapted layers, by full name."""

    def upstream(self, name: str) -> str:
        """Return the name that a tensor or module has without adapters. The adapters' own tensors keep theirs."""
        layer, rest = self._split(name)
        first, _, inside = rest.partition(".")
        if layer is None or first != _BASE_LAYER:
            return name
        return f"{layer}.{inside}" if inside else layer

    def adapted_by(self, name: str) -> str | None:
        """Return the layer whose adapter has this tensor or module; None for the backbone's own."""
        layer, rest = self._split(name)
        return None if not rest or rest.partition(".")[0] == _BASE_LAYER else layer

    def _split(self, name: str) -> tuple[str | None, str]:
        """Split a name into the adapted layer that it begins with and the rest; (None, "") where there is none."""
        end = len(name) if self.layers else -1
        while end > 0:
            if name[:end] in self.layers:
                return name[:end], name[end + 1 :]
            end = name.rfind(".", 0, end)
        return None, ""
