"""What a name means, and its checks: `examine` and its like return reports, whatever was found. Imports no torch."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from zoo.errors import PluginError, UnknownName
from zoo.hooks import PROJECT
from zoo.recipes import RecipeSpec
from zoo.registry import Registry, default_registry
from zoo.registry.names import qualified_name
from zoo.specs import BackboneSpec, HeadSpec
from zoo.testing.report import Check, Report


def examine(name: str, *, registry: Registry | None = None) -> tuple[Report, ...]:
    """The reports of every head, backbone and recipe of this name, bare or qualified; nothing is raised for a fault.

    A plugin that is broken is a report of its own, where its name or distribution is asked for or qualifies the name.
    Raises UnknownName and NameConflict.
    """
    known = registry or default_registry()
    reports = []
    for kind, one in (("head", examine_head), ("backbone", examine_backbone), ("recipe", examine_recipe)):
        try:
            reports.append(one(name, registry=known))
        except UnknownName as error:
            if error.kind == "weights tag" and kind == "backbone":
                raise  # the architecture exists
    if reports:
        return tuple(reports)
    broken = _broken(name, known)
    if broken is not None:
        return (broken,)
    have = [*known.backbones().names(), *(qualified_name(each) for each in [*known.heads(), *known.recipes()])]
    have = have if "/" in name else [each.partition("/")[2] for each in have]
    raise UnknownName("head, backbone or recipe", name, have, hint="See: zoo list, and zoo list plugins")


def _broken(name: str, registry: Registry) -> Report | None:
    for plugin in registry.plugins():
        if plugin.error and name.partition("/")[0] in (plugin.name, plugin.distribution):
            return Report(
                kind="plugin",
                name=plugin.label,
                checks=(Check(name="loads", verdict="failed", summary=plugin.error),),
            )
    return None


def examine_head(head: str | HeadSpec, *, registry: Registry | None = None) -> Report:
    """Every check of a head. Raises UnknownName and NameConflict."""
    name, spec = (head.name, head) if isinstance(head, HeadSpec) else _head(head, registry or default_registry())
    from zoo.testing.conduct import conduct
    from zoo.testing.heads import STEPS, HeadTrial

    return conduct("head", name, HeadTrial(spec), STEPS)


def _head(name: str, registry: Registry) -> tuple[str, HeadSpec]:
    found = registry.head(name)
    return qualified_name(found), found.spec


def examine_backbone(backbone: str | BackboneSpec, *, registry: Registry | None = None) -> Report:
    """Every check of a backbone. Raises UnknownName and NameConflict."""
    if isinstance(backbone, BackboneSpec):
        spec, tag = backbone, next(iter(backbone.tags), None)
    else:
        try:
            resolved = (registry or default_registry()).backbone(backbone)
        except PluginError as error:
            fault = Check(name="resolves", verdict="failed", summary=str(error))
            return Report(kind="backbone", name=backbone, checks=(fault,))
        spec, tag = resolved.spec, resolved.tag
    from zoo.testing.backbones import STEPS, BackboneTrial
    from zoo.testing.conduct import conduct

    return conduct("backbone", f"{spec.name}.{tag}" if tag else spec.name, BackboneTrial(spec, tag), STEPS)


def examine_recipe(recipe: str | RecipeSpec, *, backbone: str = "", registry: Registry | None = None) -> Report:
    """Every check of a recipe. Raises UnknownName and NameConflict."""
    known = registry or default_registry()
    if isinstance(recipe, RecipeSpec):
        name, spec = recipe.name, recipe
    else:
        found = known.recipe(recipe)
        name, spec = qualified_name(found), found.spec
    if backbone:
        known.backbone(backbone)
    from zoo.testing.conduct import conduct
    from zoo.testing.recipes import STEPS, RecipeTrial
    from zoo.testing.tiny import SPEC

    with RecipeTrial(spec, backbone or SPEC.name, known if backbone else _with_tiny()) as trial:
        return conduct("recipe", name, trial, STEPS)


def _with_tiny() -> Registry:
    """The installed plugins, and the tiny backbone as one more."""
    tiny = EntryPoint(name="testing", value="zoo.testing.tiny", group=PROJECT)
    # What is broken or switched off among the rest was said when the default registry was made.
    return Registry([*entry_points(group=PROJECT), tiny], strict=False, report=lambda _: None)
