"""`zoo show NAME`."""

from __future__ import annotations

import json
import shlex
from typing import Any

from zoo.errors import NameConflict, UnknownName
from zoo.registry import Contribution, Registry, ResolvedBackbone, default_registry
from zoo.registry.names import qualified_name


def show_name(name: str, *, as_json: bool) -> None:
    """Print all that is known about a backbone, head, recipe or recipe file. Raises UnknownName, NameConflict."""
    registry = default_registry()
    kind, found = _find(name, registry)
    if kind == "backbone":
        content = _backbone(found)
        print(_json(content)) if as_json else _print_backbone(found, content)
    elif kind == "head":
        content = _head(found)
        print(_json(content)) if as_json else _print_head(content, _usable_name(found, registry))
    else:
        recipe, origin = found
        print(recipe.model_dump_json(indent=2)) if as_json else _print_recipe(recipe, origin)


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
    known = registry.backbones().names() + [qualified_name(each) for each in [*registry.heads(), *registry.recipes()]]
    known = known if "/" in name else [each.partition("/")[2] for each in known]
    raise UnknownName("backbone, head or recipe", name.partition(".")[0], known, hint="See: zoo list")


def _usable_name(head: Contribution[Any], registry: Registry) -> str:
    """The bare name where it means this head, else the qualified one."""
    try:
        means_it = registry.head(head.spec.name) is head
    except NameConflict:
        means_it = False
    return str(head.spec.name) if means_it else qualified_name(head)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _backbone(resolved: ResolvedBackbone) -> dict[str, Any]:
    spec = resolved.spec
    return {
        "name": resolved.qualified,
        "provider": spec.provider,
        "architecture": spec.architecture,
        "parameters": spec.parameters,
        "summary": spec.summary,
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


def _print_backbone(resolved: ResolvedBackbone, content: dict[str, Any]) -> None:
    spec = resolved.spec
    print(f"{spec.name}  {spec.summary}".rstrip())
    if content["parameters"] is not None:
        print(f"parameters  {content['parameters']:,} without the classifier")
    if "/" not in resolved.asked:
        others = f"; it could also mean {', '.join(resolved.also)}" if resolved.also else ""
        print(f"the name    {resolved.asked} means {resolved.qualified}{others}")
    if not spec.weights:
        print("weights     none published: --weights FILE or --weights random")
        print(f"images      {spec.preprocessing.describe()}")
    for number, each in enumerate(spec.weights):
        default = " (default)" if number == 0 else ""
        top1 = f", ImageNet top-1 {each.top1:.2f} %" if each.top1 is not None else ""
        print(f"weights     {each.tag}{default}: licence {each.licence or 'not stated'}{top1}")
        print(f"            {each.preprocessing.describe()}")
    print(f"\nNext: zoo plan --backbone {resolved.asked} --data PATH")


def _head(found: Contribution[Any]) -> dict[str, Any]:
    from zoo.options import describe_options

    return {
        "name": qualified_name(found),
        "summary": found.spec.summary,
        "distribution": f"{found.plugin.distribution} {found.plugin.version}",
        "own_loss": found.spec.loss is not None,
        "references": list(found.spec.references),
        "options": [
            {"name": option.name, "type": option.type, "default": option.default}
            for option in describe_options(found.spec.options)
        ],
    }


def _print_head(content: dict[str, Any], usable_name: str) -> None:
    print(f"{content['name']}  {content['summary']}")
    print(f"from        {content['distribution']}")
    print(f"loss        {'its own' if content['own_loss'] else 'cross-entropy'}")
    for reference in content["references"]:
        print(f"source      {reference}")
    for option in content["options"]:
        print(f"option      {option['name']}: {option['type']} = {_text(option['default'])}")
    chosen = [
        f" --head-option {shlex.quote(option['name'] + '=' + _text(option['default']))}"
        for option in content["options"][:1]
    ]
    print(f"\nNext: zoo finetune --backbone resnet18 --head {usable_name}{''.join(chosen)}")


def _text(default: Any) -> str:
    """As `--head-option` takes it."""
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False, separators=(",", ":"))


def _print_recipe(recipe: Any, origin: str) -> None:
    print(f"# {origin}, with every default. Copy it to my.toml, change it, and pass --recipe my.toml.")
    print(recipe.to_toml(), end="")
