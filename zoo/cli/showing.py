"""`zoo show NAME`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from dataclasses import replace
from typing import Any

from zoo.cli.backbones import map_row
from zoo.errors import NameConflict, OptionError, UnknownName
from zoo.planning.request import SAMPLE_CLASSES, parse_input_size
from zoo.registry import Contribution, Registry, ResolvedBackbone, default_registry
from zoo.registry.names import qualified_name
from zoo.registry.plugins import one_line
from zoo.specs import BackboneSpec

_NEEDS = {"pooled": "pooled features[N, F]", "map": "the map[N, C, H, W] of features: zoo list backbones --head NAME"}

_NEXT = {
    "observer": "zoo finetune --backbone resnet18 --observer {name}",
    "data source": "zoo finetune --backbone resnet18 --data {name}:PATH",
}
"""How one is used that has nothing to choose."""


def show_name(name: str, *, head: str | None, classes: int | None, input_size: str | None, as_json: bool) -> None:
    """Print all that is known about a backbone, head, recipe, recipe file, observer or data source; with `head`, the
    way to a model's logits.

    Raises UnknownName, NameConflict, Refused for a pair that cannot work.
    """
    registry = default_registry()
    kind, found = _find(name, registry)
    if head is not None or classes is not None or input_size is not None:
        _show_way(kind, name, registry, head, classes, input_size, as_json=as_json)
    elif kind == "backbone":
        content = _backbone(found, registry)
        print(_json(content)) if as_json else _print_backbone(found, content)
    elif kind == "head":
        content = _head(found)
        print(_json(content)) if as_json else _print_head(content, _usable_name(found, registry))
    elif kind in _NEXT:
        content = _plain(found)
        print(_json(content)) if as_json else _print_plain(content, _NEXT[kind].format(name=found.spec.name))
    else:
        recipe, origin = found
        print(recipe.model_dump_json(indent=2)) if as_json else _print_recipe(recipe, origin)


def _show_way(
    kind: str,
    name: str,
    registry: Registry,
    head: str | None,
    classes: int | None,
    input_size: str | None,
    *,
    as_json: bool,
) -> None:
    if kind != "backbone":
        raise OptionError(f"--head, --classes and --input-size go with a backbone; {name!r} is a {kind}.")
    if head is None:
        raise OptionError(f"--classes and --input-size need --head. Next: zoo show {name} --head linear")
    from zoo.cli.way import show_way  # torch

    size = None if input_size is None else parse_input_size(input_size)
    show_way(name, head, SAMPLE_CLASSES if classes is None else classes, size, registry, as_json=as_json)


def _find(name: str, registry: Registry) -> tuple[str, Any]:
    if name.endswith(".toml"):
        from zoo.recipes import recipe_from_file

        return "recipe", (recipe_from_file(name), name)
    try:
        return "backbone", registry.backbone(name)
    except UnknownName as error:
        if error.kind == "weights tag":
            raise  # the architecture exists
    try:
        return "head", registry.head(name)
    except UnknownName:
        pass
    try:
        found = registry.recipe(name)
        return "recipe", (found.spec, f"{qualified_name(found)} of {found.plugin.distribution}")
    except UnknownName:
        pass
    for kind, look in (("observer", registry.observer), ("data source", registry.data_source)):
        with contextlib.suppress(UnknownName):
            return kind, look(name)
    offered = [*registry.heads(), *registry.recipes(), *registry.observers(), *registry.data_sources()]
    known = registry.backbones().names() + [qualified_name(each) for each in offered]
    known = known if "/" in name else [each.partition("/")[2] for each in known]
    raise UnknownName(
        "backbone, head, recipe, observer or data source", name.partition(".")[0], known, hint="See: zoo list"
    )


def _usable_name(head: Contribution[Any], registry: Registry) -> str:
    """The bare name where it means this head, else the qualified one."""
    try:
        means_it = registry.head(head.spec.name) is head
    except NameConflict:
        means_it = False
    return str(head.spec.name) if means_it else qualified_name(head)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _backbone(resolved: ResolvedBackbone, registry: Registry) -> dict[str, Any]:
    spec, fault = resolved.spec, ""
    if spec.facts is None:
        spec, fault = _measured(spec)
    facts = spec.facts
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
        "input_size": list(spec.preprocessing_for(next(iter(spec.tags), None)).input_size[1:]),
        "fixed_input": facts and facts.fixed_input,
        "note": facts.note if facts else fault,
        "heads": [
            each.spec.name
            for each in registry.heads()
            if facts is not None and (each.spec.needs == "pooled" or facts.map is not None)
        ],
        "also": list(resolved.also),
        "preprocessing": spec.preprocessing_for(resolved.tag).to_dict(),
        "weights": [
            {
                "tag": each.tag,
                "licence": each.licence,
                "top1": each.top1,
                "preprocessing": each.preprocessing.to_dict(),
            }
            for each in spec.weights
        ],
    }


def _measured(spec: BackboneSpec) -> tuple[BackboneSpec, str]:
    """A backbone that its provider's index does not know, measured now; or why it cannot be."""
    from zoo.model.measure import measure  # torch

    print(f"Measuring {spec.name}, which is not in its provider's index.", file=sys.stderr)
    try:
        return replace(spec, facts=measure(spec)), ""
    except Exception as error:  # of a plugin or its library: still worth showing what is known
        return spec, f"it cannot be built here: {one_line(error)}"


def _print_backbone(resolved: ResolvedBackbone, content: dict[str, Any]) -> None:
    spec = resolved.spec
    print(f"{spec.name}  {spec.summary}".rstrip())
    if "/" not in resolved.asked:
        others = f"; it could also mean {', '.join(resolved.also)}" if resolved.also else ""
        print(f"the name    {resolved.asked} means {resolved.qualified}{others}")
    if content["parameters"] is not None:
        _print_facts(resolved, content)
    elif content["note"]:
        print(f"note        {content['note']}")
    if not spec.weights:
        print("weights     none published: --weights FILE or --weights random")
        print(f"images      {spec.preprocessing.describe()}")
    for number, each in enumerate(spec.weights):
        default = " (default)" if number == 0 else ""
        top1 = f", ImageNet top-1 {each.top1:.2f} %" if each.top1 is not None else ""
        print(f"weights     {each.tag}{default}: licence {each.licence or 'not stated'}{top1}")
        print(f"            {each.preprocessing.describe()}")
    print(f"\nNext: zoo plan --backbone {resolved.asked} --data PATH")


def _print_facts(resolved: ResolvedBackbone, content: dict[str, Any]) -> None:
    height, width = content["input_size"]
    fixed = "no other size" if content["fixed_input"] else "others by --input-size"
    print(f"parameters  {content['parameters']:,} without the classifier")
    print(f"compute     {content['gmacs']:.2f} GMACs for an image of {height}x{width}")
    print(f"input       {height}x{width} by default, {fixed}")
    print(f"features    pooled[N, {content['features']}], {_map(content)}")
    print(f"groups      {content['groups']}; see them with: zoo show {resolved.asked} --head linear")
    if content["note"] and content["map"]:
        print(f"note        {content['note']}")
    print(f"heads       {', '.join(content['heads'])}")


def _map(content: dict[str, Any]) -> str:
    grid = content["map"]
    if grid is None:
        return f"no map{': ' + content['note'] if content['note'] else ''}"
    return f"map[N, {grid['channels']}, {grid['height']}, {grid['width']}] at stride {grid['stride']}"


def _head(found: Contribution[Any]) -> dict[str, Any]:
    from zoo.options import describe_options

    return {
        "name": qualified_name(found),
        "summary": found.spec.summary,
        "distribution": f"{found.plugin.distribution} {found.plugin.version}",
        "needs": found.spec.needs,
        "own_loss": found.spec.loss is not None,
        "closed_form": found.spec.fit is not None,
        "references": list(found.spec.references),
        "options": [
            {"name": option.name, "type": option.type, "default": option.default}
            for option in describe_options(found.spec.options)
        ],
    }


def _print_head(content: dict[str, Any], usable_name: str) -> None:
    print(f"{content['name']}  {content['summary']}")
    print(f"from        {content['distribution']}")
    print(f"needs       {_NEEDS[content['needs']]}")
    trained = "fitted in closed form, in one pass" if content["closed_form"] else "gradients"
    print(f"trained by  {trained}; loss {'its own' if content['own_loss'] else 'cross-entropy'}")
    for reference in content["references"]:
        print(f"source      {reference}")
    for option in content["options"]:
        print(f"option      {option['name']}: {option['type']} = {_text(option['default'])}")
    chosen = [
        f" --head-option {shlex.quote(option['name'] + '=' + _text(option['default']))}"
        for option in content["options"][:1]
    ]
    print(f"\nNext: zoo finetune --backbone resnet18 --head {usable_name}{''.join(chosen)}")


def _plain(found: Contribution[Any]) -> dict[str, Any]:
    return {
        "name": qualified_name(found),
        "summary": found.spec.summary,
        "distribution": f"{found.plugin.distribution} {found.plugin.version}",
    }


def _print_plain(content: dict[str, Any], used: str) -> None:
    print(f"{content['name']}  {content['summary']}")
    print(f"from        {content['distribution']}")
    print(f"\nNext: {used}")


def _text(default: Any) -> str:
    """As `--head-option` takes it."""
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False, separators=(",", ":"))


def _print_recipe(recipe: Any, origin: str) -> None:
    print(f"# {origin}, with every default. Copy it to my.toml, change it, and pass --recipe my.toml.")
    print(recipe.to_toml(), end="")
