"""`zoo show NAME`: everything known about one name; with `--head`, a backbone's shapes from image to logits."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from zoo.cli.document import print_document
from zoo.cli.list_backbones import map_row
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.wrapping import say
from zoo.errors import NameConflict, OptionError, UnknownName
from zoo.planning.request import SAMPLE_CLASSES, parse_input_size
from zoo.registry.entry_points import one_line
from zoo.registry.names import ResolvedBackbone, qualified_name, usable_names
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry, default_registry
from zoo.specs.backbone import BackboneSpec
from zoo.specs.head import meets

if TYPE_CHECKING:
    from zoo.model.summary import TracedStep
    from zoo.specs.recipe import RecipeSpec

_NEEDS = {
    "pooled": "pooled features[N, F]",
    "map": "the map[N, C, H, W] of features: zoo list backbones --head NAME",
    "layers": "features[N, L]: pooled, and the mean of every group's output: zoo list backbones --head NAME",
}
"""What a head needs, in words."""
_USES = {
    "observer": "zoo finetune --backbone resnet18 --observer {name}",
    "data source": "zoo finetune --backbone resnet18 --data {name}:PATH",
}
"""Kinds of which only a summary is known -> the command that uses one."""


def show_name(
    name: str,
    *,
    head: str | None,
    classes: int | None,
    input_size: str | None,
    verbosity: Verbosity,
    as_json: bool,
) -> None:
    """Print everything known about a backbone, head, recipe, recipe file, observer or data source; with `head`, the
    shapes from image to logits of that model.

    Raises UnknownName, NameConflict, OptionError, Refused for a backbone and head that do not fit together.
    """
    registry = default_registry()
    kind, found = _find(name, registry)
    if head is not None or classes is not None or input_size is not None:
        if kind != "backbone":
            raise OptionError(
                f"--head, --classes and --input-size go with a backbone; {name!r} is a {kind}.\n"
                f"Next: leave them out: zoo show {name}"
            )
        if head is None:
            raise OptionError(f"--classes and --input-size need --head.\nNext: zoo show {name} --head linear")
        size = None if input_size is None else parse_input_size(input_size)
        _show_shapes(name, head, SAMPLE_CLASSES if classes is None else classes, size, registry, as_json=as_json)
    elif kind == "backbone":
        content = _backbone(found, registry)
        print_document(_json(content)) if as_json else _print_backbone(found, content, verbosity)
    elif kind == "head":
        content = _head(found)
        print_document(_json(content)) if as_json else _print_head(content, _usable_name(found, registry), verbosity)
    elif kind in _USES:
        content = _summary(found)
        print_document(_json(content)) if as_json else _print_summary(
            content, _USES[kind].format(name=found.spec.name), verbosity
        )
    else:
        recipe, origin = found
        print_document(recipe.model_dump_json(indent=2)) if as_json else _print_recipe(recipe, origin)


def _find(name: str, registry: Registry) -> tuple[str, Any]:
    """(kind, what has the name), looked for in the order of `zoo list`; of a recipe with where it is from."""
    if name.endswith(".toml"):
        from zoo.specs.recipe import recipe_from_file

        return "recipe", (recipe_from_file(name), name)
    try:
        return "backbone", registry.backbone(name)
    except UnknownName as error:
        if error.kind == "weights tag" or "." in name:
            raise  # nothing else has a tag
    with contextlib.suppress(UnknownName):
        return "head", registry.head(name)
    with contextlib.suppress(UnknownName):
        recipe = registry.recipe(name)
        return "recipe", (recipe.spec, f"{qualified_name(recipe)} of {recipe.plugin.distribution}")
    for kind, look_up in (("observer", registry.observer), ("data source", registry.data_source)):
        with contextlib.suppress(UnknownName):
            return kind, look_up(name)
    offered = [registry.heads(), registry.recipes(), registry.observers(), registry.data_sources()]
    # Suggestions are qualified where the name that was asked for is.
    names = registry.backbones().names() if "/" in name else registry.backbones().usable_names()
    names += [each for items in offered for each in usable_names(items, qualified="/" in name)]
    kinds = "backbone, head, recipe, observer or data source"
    raise UnknownName(kinds, name, names, step="zoo list")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


# Backbones


def _backbone(resolved: ResolvedBackbone, registry: Registry) -> dict[str, Any]:
    spec, fault = resolved.spec, ""
    if spec.facts is None:
        spec, fault = _measured(spec)
    facts, default = spec.facts, next(iter(spec.tags), None)
    return {
        "name": resolved.qualified,
        "provider": spec.provider,
        "architecture": spec.architecture,
        "summary": spec.summary,
        "parameters": facts and facts.parameters,
        "gmacs": facts and facts.gmacs,
        "features": facts and facts.pooled,
        "map": map_row(spec),
        "groups": facts and facts.groups,
        "input_size": list(spec.preprocessing_for(resolved.tag).input_size[1:]),
        # Other weights may be for another size of image, and for a network that is built otherwise.
        "measured_with": facts
        and {"weights": default, "input_size": list(spec.preprocessing_for(default).input_size[1:])},
        "fixed_input": facts and facts.fixed_input,
        "note": facts.note if facts else fault,
        "heads": [head.spec.name for head in registry.heads() if facts is not None and meets(head.spec.needs, facts)],
        "also": list(resolved.also),
        "preprocessing": spec.preprocessing_for(resolved.tag).to_dict(),
        "weights": [
            {
                "tag": weights.tag,
                "licence": weights.licence,
                "top1": weights.top1,
                "preprocessing": weights.preprocessing.to_dict(),
            }
            for weights in spec.weights
        ],
    }


def _measured(spec: BackboneSpec) -> tuple[BackboneSpec, str]:
    """A backbone without facts in its provider's index, measured now; or as it was, and why it cannot be measured."""
    from zoo.model.measure import measure  # imports torch

    say(f"Measuring {spec.name}, which is not in its provider's index.", to_stderr=True)
    try:
        return replace(spec, facts=measure(spec)), ""
    except Exception as error:  # of a plugin or its library: the rest is still worth showing
        return spec, f"it cannot be built here: {one_line(error)}"


def _print_backbone(resolved: ResolvedBackbone, content: dict[str, Any], verbosity: Verbosity) -> None:
    spec = resolved.spec
    say(f"{spec.name}  {spec.summary}".rstrip())
    if "/" not in resolved.asked:
        also = f"; it could also mean {', '.join(resolved.also)}" if resolved.also else ""
        say(f"name        {resolved.asked} means {resolved.qualified}{also}")
    if content["parameters"] is not None:
        _print_facts(resolved, content)
    elif content["note"]:
        say(f"note        {content['note']}")
    if not spec.weights:
        say("weights     none published: --weights FILE or --weights random")
        say(f"images      {spec.preprocessing.describe()}")
    for number, weights in enumerate(spec.weights):
        default = " (default)" if number == 0 else ""
        top1 = f", ImageNet top-1 {weights.top1:.2f} %" if weights.top1 is not None else ""
        say(f"weights     {weights.tag}{default}: licence {weights.licence or 'not stated'}{top1}")
        say(f"            {weights.preprocessing.describe()}")
    if not verbosity.quiet:
        say(f"\nNext: zoo plan --backbone {resolved.asked} --data PATH")


def _print_facts(resolved: ResolvedBackbone, content: dict[str, Any]) -> None:
    height, width = content["input_size"]
    measured, at = content["measured_with"]["weights"], "{}x{}".format(*content["measured_with"]["input_size"])
    sizes = "no other size" if content["fixed_input"] else "others with --input-size"
    usual = measured == resolved.tag
    if not usual:
        say(
            f"measured    with the default weights {measured} at {at}; with {resolved.tag}: "
            f"zoo show {resolved.asked} --head linear"
        )
    say(f"parameters  {content['parameters']:,} without the classifier")
    say(f"compute     {content['gmacs']:.2f} GMACs for an image of {at}")
    say(f"input       {height}x{width} {'by default' if usual else 'with these weights'}, {sizes}")
    say(f"features    pooled[N, {content['features']}], {_map(content)}")
    say(f"groups      {content['groups']}; see them with: zoo show {resolved.asked} --head linear")
    if content["note"] and content["map"]:
        say(f"note        {content['note']}")
    say(f"heads       {', '.join(content['heads'])}")


def _map(content: dict[str, Any]) -> str:
    grid = content["map"]
    if grid is None:
        return f"no map{': ' + content['note'] if content['note'] else ''}"
    return f"map[N, {grid['channels']}, {grid['height']}, {grid['width']}] at stride {grid['stride']}"


# Shapes


def _show_shapes(
    backbone: str, head: str, classes: int, input_size: tuple[int, int] | None, registry: Registry, *, as_json: bool
) -> None:
    """Print shape, dtype and parameters at each step. Raises Refused for a pair or a size that cannot work."""
    from zoo.model.summary import trace_shapes
    from zoo.planning.resolved_model import resolve_model

    if classes < 2:
        raise OptionError(
            f"--classes must be at least 2, got {classes}.\nNext: leave --classes out, for {SAMPLE_CLASSES}."
        )
    model = resolve_model(registry, backbone, head, head_options={}, input_size=input_size)
    model.check_input_size()
    # Names of classes are needed to build a head; shapes depend on their number alone.
    steps = trace_shapes(model.outline(tuple(f"class{number}" for number in range(classes))))
    if as_json:
        content = {
            "backbone": model.backbone.qualified,
            "head": qualified_name(model.head),
            "classes": classes,
            "steps": [asdict(step) for step in steps],
        }
        print_document(json.dumps(content, indent=2))
        return
    say(f"{model.backbone.qualified} with {qualified_name(model.head)}, {classes} classes; one image:")
    columns = ["step", "output", "dtype", "parameters"]
    console.show(console.out(), console.table(None, columns, [_step_row(step) for step in steps]))
    total = sum(step.parameters for step in steps)
    say(f"{total:,} parameters. Recipes freeze and train by these groups: zoo show staged")


def _step_row(step: TracedStep) -> list[str]:
    # A group behind the map has no output: a head that needs the map never runs it.
    shape = "(not used)" if step.shape is None else f"[{', '.join(map(str, step.shape))}]"
    return [step.name, shape, step.dtype, f"{step.parameters:,}" if step.parameters else ""]


# Heads, recipes, observers, data sources


def _head(head: Contribution[Any]) -> dict[str, Any]:
    from zoo.specs.options import describe_options

    return {
        **_summary(head),
        "needs": head.spec.needs,
        "own_loss": head.spec.loss is not None,
        "closed_form": head.spec.fit is not None,
        "linear": head.spec.linear is not None,
        "references": list(head.spec.references),
        "options": [
            {"name": option.name, "type": option.type, "default": option.default}
            for option in describe_options(head.spec.options)
        ],
    }


def _usable_name(head: Contribution[Any], registry: Registry) -> str:
    """The bare name if it means this head, else the qualified one."""
    try:
        is_this = registry.head(head.spec.name) is head
    except NameConflict:
        is_this = False
    return str(head.spec.name) if is_this else qualified_name(head)


def _print_head(content: dict[str, Any], usable_name: str, verbosity: Verbosity) -> None:
    say(f"{content['name']}  {content['summary']}")
    say(f"from        {content['distribution']}")
    say(f"needs       {_NEEDS[content['needs']]}")
    by_solver = "a solver, where the backbone is frozen, or gradients" if content["linear"] else "gradients"
    trained = "fitted in closed form, in one pass" if content["closed_form"] else by_solver
    say(f"trained by  {trained}; loss {'its own' if content['own_loss'] else 'cross-entropy'}")
    for reference in content["references"]:
        say(f"source      {reference}")
    for option in content["options"]:
        say(f"option      {option['name']}: {option['type']} = {_option_text(option['default'])}")
    example = [
        f" --head-option {shlex.quote(option['name'] + '=' + _option_text(option['default']))}"
        for option in content["options"][:1]
    ]
    if not verbosity.quiet:
        say(f"\nNext: zoo finetune --backbone resnet18 --head {usable_name}{''.join(example)}")


def _option_text(default: Any) -> str:
    """A value as `--head-option` takes it."""
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False, separators=(",", ":"))


def _summary(item: Contribution[Any]) -> dict[str, Any]:
    return {
        "name": qualified_name(item),
        "summary": item.spec.summary,
        "distribution": f"{item.plugin.distribution} {item.plugin.version}",
    }


def _print_summary(content: dict[str, Any], command: str, verbosity: Verbosity) -> None:
    say(f"{content['name']}  {content['summary']}")
    say(f"from        {content['distribution']}")
    if not verbosity.quiet:
        say(f"\nNext: {command}")


def _print_recipe(recipe: RecipeSpec, origin: str) -> None:
    print(f"# {origin}, with every default. Copy it to my.toml, change it, and pass --recipe my.toml.")
    print(recipe.to_toml(), end="")
