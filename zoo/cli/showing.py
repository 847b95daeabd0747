"""`zoo show NAME`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import OptionError, UnknownName
from zoo.registry import Contribution, Registry, ResolvedBackbone, default_registry
from zoo.registry.names import qualified_name


def show_name(name: str, *, as_json: bool) -> None:
    """Print all that is known about a backbone, head, recipe or recipe file. Raises UnknownName, NameConflict."""
    registry = default_registry()
    kind, found = _find(name, registry)
    if kind == "backbone":
        content = _backbone(found)
        print(json.dumps(content, indent=2)) if as_json else _print_backbone(found, content)
    elif kind == "head":
        content = _head(found)
        print(json.dumps(content, indent=2)) if as_json else _print_head(content)
    else:
        recipe, origin = found
        print(recipe.model_dump_json(indent=2)) if as_json else _print_recipe(recipe, origin)


def _find(name: str, registry: Registry) -> tuple[str, Any]:
    if name.endswith(".toml"):
        return "recipe", (_recipe_file(Path(name)), name)
    try:
        return "backbone", registry.backbone(name)
    except UnknownName as error:
        not_a_backbone = error
    try:
        return "head", registry.head(name)
    except UnknownName:
        pass
    try:
        found = registry.recipe(name)
        return "recipe", (found.spec, f"{qualified_name(found)} of {found.plugin.distribution}")
    except UnknownName:
        pass
    if not_a_backbone.kind != "backbone":
        raise not_a_backbone  # the architecture exists, its tag or provider does not
    known = [each.partition("/")[2] for each in registry.backbones().names()]
    known += [each.spec.name for each in [*registry.heads(), *registry.recipes()]]
    raise UnknownName("backbone, head or recipe", name, known, hint="See: zoo list")


def _recipe_file(path: Path) -> Any:
    from zoo.recipes import recipe_from_toml

    try:
        return recipe_from_toml(path.read_text("utf-8"), name=str(path))
    except OSError as error:
        raise OptionError(f"The recipe file {str(path)!r} cannot be read: {error.strerror}.") from None


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


def _print_head(content: dict[str, Any]) -> None:
    print(f"{content['name']}  {content['summary']}")
    print(f"from        {content['distribution']}")
    print(f"loss        {'its own' if content['own_loss'] else 'cross-entropy'}")
    for reference in content["references"]:
        print(f"source      {reference}")
    for option in content["options"]:
        print(f"option      {option['name']}: {option['type']} = {option['default']}")
    chosen = "".join(f" --head-option {option['name']}={option['default']}" for option in content["options"][:1])
    print(f"\nNext: zoo finetune --backbone resnet18 --head {content['name'].partition('/')[2]}{chosen}")


def _print_recipe(recipe: Any, origin: str) -> None:
    print(f"# {origin}, with every default. Copy it to my.toml, change it, and pass --recipe my.toml.")
    print(recipe.to_toml(), end="")
