"""Objects in place of names: the registry of a session that holds them, and the names that stand for them.

An object whose spec is that of an installed plugin gets the plugin's name, so that what is stored is found by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import OptionError, ZooError
from zoo.registry.names import qualified_name
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.registry.session import SESSION, SessionRegistry, of_session
from zoo.specs.backbone import BackboneSpec
from zoo.specs.head import HeadCallable, HeadSpec
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.recipe import RecipeSpec, validated

if TYPE_CHECKING:
    from torch import nn

_Spec = TypeVar("_Spec")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a call names, with a registry that knows all of it."""

    registry: Registry
    backbone: str | None
    head: str
    recipe: str | None


def name_objects(
    registry: Registry,
    *,
    backbone: str | PathLike[str] | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable = "",
    recipe: str | PathLike[str] | RecipeSpec | Mapping[str, Any] | None = None,
) -> Named:
    """Give every object that stands in place of a name a name of the session. Names stay as they are.

    Args:
        registry: The plugins.
        backbone: A name, a path where one is taken, a spec, or a module that states its preprocessing.
        head: A name, a spec, or a function (shape, classes) -> module.
        recipe: A name, the path of a file, a spec, or the content of a recipe file as a dictionary.

    Raises OptionError for an object that cannot stand there, RecipeError for a dictionary with faults.
    """
    backbones: list[BackboneSpec] = []
    heads: list[HeadSpec] = []
    recipes: list[RecipeSpec] = []
    if isinstance(backbone, PathLike):
        backbone = fspath(backbone)
    if backbone is not None and not isinstance(backbone, str):
        found, name = _backbone(backbone, registry)
        backbones, backbone = found, name
    if not isinstance(head, str):
        heads, head = _head(head, registry)
    if isinstance(recipe, PathLike):
        recipe = fspath(recipe)
    if recipe is not None and not isinstance(recipe, str):
        recipes, recipe = _recipe(recipe, registry)
    if backbones or heads or recipes:
        registry = SessionRegistry(registry, backbones=backbones, heads=heads, recipes=recipes)
    return Named(registry=registry, backbone=backbone, head=head, recipe=recipe)


def stand_in(
    registry: Registry,
    *,
    backbone: tuple[str, str | BackboneSpec | nn.Module | None],
    head: tuple[str, str | HeadSpec | HeadCallable | None],
    what: str,
    preprocessing: Mapping[str, Any],
) -> Registry:
    """A registry in which the objects that were stored as `session/NAME` are found again under these names.

    Args:
        registry: The plugins.
        backbone: (stored name, object or name that is to stand for it; None where none was given).
        head: The same of the head.
        what: What is opened, for messages: `this classifier`.
        preprocessing: What was stored of it; a module given for the backbone needs to state none.

    Raises OptionError where an object is given for what an installed plugin provides.
    """
    backbones: list[BackboneSpec] = []
    heads: list[HeadSpec] = []
    for kind, (stored, given) in {"backbone": backbone, "head": head}.items():
        if given is not None and not of_session(stored):
            raise OptionError(
                f"The {kind} of {what} is {stored}, which is found by its name, and another was given.\n"
                f"Next: leave {kind} out."
            )
    if (given_backbone := backbone[1]) is not None:
        spec = _backbone_spec(given_backbone, registry, preprocessing)
        # Under the stored name, whatever its own one is: everything else that was stored refers to that.
        architecture, _, _ = _bare(backbone[0]).partition(".")
        backbones.append(replace(spec, provider=SESSION, architecture=architecture))
    if (given_head := head[1]) is not None:
        heads.append(replace(_head_spec(given_head, registry), name=_bare(head[0])))
    return SessionRegistry(registry, backbones=backbones, heads=heads) if backbones or heads else registry


def _bare(stored: str) -> str:
    return stored.removeprefix(f"{SESSION}/")


def _backbone(given: BackboneSpec | nn.Module, registry: Registry) -> tuple[list[BackboneSpec], str]:
    spec = _backbone_spec(given, registry)
    # Only an equal spec keeps the name: one that was changed must not pass for what the plugin offers.
    if spec.provider != SESSION and _registered(lambda: registry.backbone(spec.name).spec) == spec:
        return [], spec.name
    spec = replace(spec, provider=SESSION)
    return [spec], spec.name


def _backbone_spec(
    given: str | BackboneSpec | nn.Module, registry: Registry, preprocessing: Mapping[str, Any] | None = None
) -> BackboneSpec:
    if isinstance(given, BackboneSpec):
        return given
    if isinstance(given, str):
        return registry.backbone(given).spec
    # Here and below, because only a call with an object needs torch at this point.
    from zoo.planning.own_module import module_backbone

    stored = None if preprocessing is None else Preprocessing.from_dict(dict(preprocessing))
    return module_backbone(given, preprocessing=stored)


def _head(given: HeadSpec | HeadCallable, registry: Registry) -> tuple[list[HeadSpec], str]:
    if isinstance(given, HeadSpec) and (name := _same(given, registry.heads())):
        return [], name
    spec = _head_spec(given, registry)
    return [spec], f"{SESSION}/{spec.name}"


def _head_spec(given: str | HeadSpec | HeadCallable, registry: Registry) -> HeadSpec:
    if isinstance(given, str):
        return registry.head(given).spec
    from zoo.planning.head_object import head_spec

    return head_spec(given)


def _recipe(given: RecipeSpec | Mapping[str, Any], registry: Registry) -> tuple[list[RecipeSpec], str]:
    if isinstance(given, RecipeSpec):
        if name := _same(given, registry.recipes()):
            return [], name
        return [given], f"{SESSION}/{given.name}"
    if not isinstance(given, Mapping):
        raise OptionError(
            f"A recipe is a name, the path of a .toml file, a zoo.RecipeSpec or a dictionary, and this is a "
            f"{type(given).__name__}.\n"
            "Next: recipe={'stages': [{'name': 'head', 'train': ['head'], 'epochs': 5, 'lr': 0.001}]}"
        )
    # Before `given`, so that a name and a summary of its own win.
    content = {"name": "recipe", "summary": "A recipe that was passed as a dictionary.", **given}
    spec = validated("given as a dictionary", content)
    return [spec], f"{SESSION}/{spec.name}"


def _same(given: object, offered: list[Contribution[Any]]) -> str | None:
    return next((qualified_name(each) for each in offered if each.spec == given), None)


def _registered(look_up: Callable[[], _Spec]) -> _Spec | None:
    try:
        return look_up()
    # Unknown, or a plugin that is broken: in either case nothing installed stands behind the name.
    except ZooError:
        return None
