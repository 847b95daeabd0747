"""A backbone's ordered groups as an exact partition: every parameter, buffer and module belongs to exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from zoo.errors import PluginError
from zoo.specs import Group


@dataclass(frozen=True, slots=True)
class Partition:
    """Which group holds what; all names are relative to the backbone's module."""

    names: tuple[str, ...]
    """Group names, input to output."""
    tensors: dict[str, str]
    """Parameter or buffer (buffers that are not saved included) -> group."""
    modules: dict[str, frozenset[str]]
    """Module -> the groups that it takes part in; containers take part in several."""

    def parameters_of(self, group: str, module: nn.Module) -> dict[str, nn.Parameter]:
        """The group's parameters by name, in the module's order."""
        return {name: each for name, each in module.named_parameters() if self.tensors[name] == group}


def partition(module: nn.Module, groups: Sequence[Group], *, backbone: str) -> Partition:
    """Check that `groups` cover `module` exactly once, and say where everything belongs.

    Raises PluginError naming what is not covered, covered twice, or not there.
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
        explicit = {owner[prefix] for prefix in _prefixes(name) if prefix in owner}
        around = modules.get(name.rpartition(".")[0], frozenset(names[:1]))
        tensors[name] = min(explicit or around, key=names.index)
    return Partition(names, tensors, modules)


def _owners(groups: Sequence[Group], backbone: str) -> dict[str, str]:
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
        for prefix in ["", *_prefixes(tensor)[1:]]:
            if prefix in held:
                held[prefix].add(group)
    resolved: dict[str, frozenset[str]] = {}

    def visit(name: str, each: nn.Module, before: str) -> str:
        # A module without parameters (dropout, pooling) works on what the one before it puts out: it goes with that.
        groups = sorted(held[name], key=names.index)
        resolved[name] = frozenset(groups or [before])
        inner = groups[0] if groups else before
        for child_name, child in each.named_children():
            full = f"{name}.{child_name}" if name else child_name
            if full in held:
                inner = visit(full, child, inner)
        return groups[-1] if groups else before

    visit("", module, names[0])
    return resolved
