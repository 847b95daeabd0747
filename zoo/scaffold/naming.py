"""What a new plugin's parts are called: everything follows from one name."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec

from zoo.errors import Refused
from zoo.registry import Registry, default_registry

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a plugin's parts."""

    name: str
    """Of the head, backbone or recipe, and of the plugin: `sharp_linear`."""

    @property
    def module(self) -> str:
        """`zoo_sharp_linear`: nothing generic lands among the installed modules."""
        return f"zoo_{self.name}"

    @property
    def distribution(self) -> str:
        """`zoo-sharp-linear`, which is also the folder's name."""
        return self.module.replace("_", "-")

    @property
    def class_name(self) -> str:
        """`SharpLinear`."""
        return "".join(part.capitalize() for part in self.name.split("_"))


def check_name(kind: str, name: str) -> Names:
    """The names that follow from `name`. Raises Refused with the nearest name that can be."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise Refused(
            f"{name!r} cannot name a {kind}: lower-case letters, digits and single '_' between them, a letter first, "
            f"at most {_LONGEST}, so that it is a Python module and a distribution too. "
            f"Next: zoo plugins new {kind} {_nearest(kind, name)}"
        )
    names = Names(name)
    if find_spec(names.module) is not None:
        raise Refused(
            f"A {kind} {name!r} would be the module {names.module!r}, and one of that name is already installed. "
            f"Next: zoo plugins new {kind} my_{name}"
        )
    if name in _held(kind, default_registry()):
        raise Refused(
            f"There is a {kind} {name!r} already, so that the bare name would not mean yours alone. "
            f"Next: zoo plugins new {kind} my_{name}"
        )
    return names


def _held(kind: str, registry: Registry) -> set[str]:
    """Names that installed plugins hold."""
    if kind == "backbone":
        return {part for name in registry.backbones().names() for part in name.split("/")}
    return {each.spec.name for each in (registry.heads() if kind == "head" else registry.recipes())}


def _nearest(kind: str, name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", plain)
    joined = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_").lstrip("0123456789_")
    return joined[:_LONGEST].rstrip("_") or f"my_{kind}"
