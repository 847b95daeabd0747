"""Look a name up and run its checks. `examine` and its relatives return reports, failed or not. Imports no torch."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from zoo.errors import PluginError, UnknownName, without_step
from zoo.registry.hooks import PROJECT
from zoo.registry.names import qualified_name, usable_names
from zoo.registry.registry import Registry, default_registry
from zoo.specs.backbone import BackboneSpec
from zoo.specs.head import HeadSpec
from zoo.specs.recipe import RecipeSpec
from zoo.testing.report import ConformanceCheck, Report


def examine(name: str, *, registry: Registry | None = None) -> tuple[Report, ...]:
    """Check every head, backbone and recipe of this name, and return one report for each.

    A failed check raises nothing. A plugin that does not load gets a report of its own, if `name` is its name or
    distribution, or starts with one of them (`plugin/head`).

    Args:
        name: Bare (`linear`) or qualified (`heads/linear`).
        registry: Where the name is looked up; default: the installed plugins.

    Raises:
        UnknownName: Nothing has this name.
        NameConflict: Several plugins provide the name.
    """
    registry = registry or default_registry()
    reports = []
    for kind, examine_kind in (("head", examine_head), ("backbone", examine_backbone), ("recipe", examine_recipe)):
        try:
            reports.append(examine_kind(name, registry=registry))
        except UnknownName as error:
            # The architecture exists and only the tag is wrong: say so, not that there is nothing of this name.
            if error.kind == "weights tag" and kind == "backbone":
                raise
    if reports:
        return tuple(reports)
    not_loaded = _report_not_loaded(name, registry)
    if not_loaded is not None:
        return (not_loaded,)
    names = registry.backbones().names() if "/" in name else registry.backbones().usable_names()
    names += [
        each for items in (registry.heads(), registry.recipes()) for each in usable_names(items, qualified="/" in name)
    ]
    raise UnknownName("head, backbone or recipe", name, names, step="zoo list, or zoo list plugins")


def _report_not_loaded(name: str, registry: Registry) -> Report | None:
    for plugin in registry.plugins():
        if plugin.error and name.partition("/")[0] in (plugin.name, plugin.distribution):
            return Report(
                kind="plugin",
                name=plugin.label,
                checks=(ConformanceCheck(name="loads", verdict="failed", summary=plugin.error),),
            )
    return None


def examine_head(head: str | HeadSpec, *, registry: Registry | None = None) -> Report:
    """Run every check of a head, given by name or as a spec. Raises UnknownName and NameConflict."""
    if isinstance(head, HeadSpec):
        name, spec = head.name, head
    else:
        registered = (registry or default_registry()).head(head)
        name, spec = qualified_name(registered), registered.spec
    from zoo.testing.conduct import conduct
    from zoo.testing.heads import STEPS, HeadTrial

    return conduct("head", name, HeadTrial(spec), STEPS)


def examine_backbone(backbone: str | BackboneSpec, *, registry: Registry | None = None) -> Report:
    """Run every check of a backbone, given by name or as a spec. Raises UnknownName and NameConflict."""
    if isinstance(backbone, BackboneSpec):
        spec, tag = backbone, next(iter(backbone.tags), None)
    else:
        try:
            resolved = (registry or default_registry()).backbone(backbone)
        except PluginError as error:
            fault = ConformanceCheck(name="resolves", verdict="failed", summary=without_step(str(error)))
            return Report(kind="backbone", name=backbone, checks=(fault,))
        spec, tag = resolved.spec, resolved.tag
    from zoo.testing.backbones import STEPS, BackboneTrial
    from zoo.testing.conduct import conduct

    return conduct("backbone", f"{spec.name}.{tag}" if tag else spec.name, BackboneTrial(spec, tag), STEPS)


def examine_recipe(recipe: str | RecipeSpec, *, backbone: str = "", registry: Registry | None = None) -> Report:
    """Run every check of a recipe, given by name or as a spec, on a backbone (default: the tiny one).

    Raises UnknownName and NameConflict.
    """
    registry = registry or default_registry()
    if isinstance(recipe, RecipeSpec):
        name, spec = recipe.name, recipe
    else:
        registered = registry.recipe(recipe)
        name, spec = qualified_name(registered), registered.spec
    if backbone:
        registry.backbone(backbone)  # an unknown backbone is the caller's mistake, not a failed check
    from zoo.testing.conduct import conduct
    from zoo.testing.recipes import STEPS, RecipeTrial
    from zoo.testing.tiny import SPEC

    with RecipeTrial(spec, backbone or SPEC.name, registry if backbone else _registry_with_tiny()) as trial:
        return conduct("recipe", name, trial, STEPS)


def _registry_with_tiny() -> Registry:
    """Return the installed plugins and, as one more, the tiny backbone."""
    tiny = EntryPoint(name="testing", value="zoo.testing.tiny", group=PROJECT)
    # Broken or disabled plugins were already reported when the default registry was made: report nothing twice.
    return Registry([*entry_points(group=PROJECT), tiny], strict=False, report=lambda _: None)
