"""One page for each head and each recipe that come with zoo, written from their own specs."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.registry.registry import default_registry
from zoo.specs.head import HeadSpec
from zoo.specs.recipe import RecipeSpec, Stage

NEEDS = {
    "pooled": "pooled features `[N, F]`",
    "map": "the map `[N, C, H, W]`",
    "layers": "pooled features and the mean of every group's output, `[N, L]`",
}


def head_pages() -> dict[str, str]:
    """Text of the list of heads and of one page for each, by path."""
    heads = [each.spec for each in default_registry().heads() if each.plugin.own]
    rows = [f"| [{head.name}]({head.name}.md) | {_cell(head.summary)} | {NEEDS[head.needs]} |" for head in heads]
    listed = (
        "# Heads\n\nA head maps features of the backbone to a logit for each class. `--head NAME` takes one, "
        "`zoo show NAME` shows what is here, and [a plugin](../plugins.md) or an object brings your own.\n\n"
        f"| head | what it is for | reads |\n|---|---|---|\n{_lines(rows)}\n\n"
        "Which backbone takes which head: [what works with what](../support.md).\n"
    )
    return {"heads/index.md": listed, **{f"heads/{head.name}.md": head_page(head) for head in heads}}


def head_page(head: HeadSpec) -> str:
    """The page of a head: what it reads, what fits it, and its options."""
    if head.fit is not None:
        fitted = "in closed form, in one pass over the features; its backbone stays frozen"
    else:
        loss = "cross-entropy" if head.loss is None else "a loss of its own"
        solved = "; a solver can fit it at once to the minimum of its loss" if head.linear is not None else ""
        fitted = f"by gradients of {loss}{solved}"
    facts = [f"- Reads {NEEDS[head.needs]}.", f"- Is fitted {fitted}."]
    facts += [f"- Sources: {', '.join(map(_reference, head.references))}."] if head.references else []
    table = _options(head.options)
    return (
        f"# {head.name}\n\n{head.summary}\n\n{_lines(facts)}\n\n"
        f"```\nzoo finetune --backbone resnet18 --head {head.name} --data photos/\n```\n\n## Options\n\n"
        + (
            f"`--head-option NAME=VALUE`, or `head_options={{...}}` in Python.\n\n{table}"
            if table
            else "It has none.\n"
        )
    )


def recipe_pages() -> dict[str, str]:
    """Text of the list of recipes and of one page for each, by path."""
    recipes: list[RecipeSpec] = [each.spec for each in default_registry().recipes() if each.plugin.own]
    rows = [f"| [{each.name}]({each.name}.md) | {_cell(each.summary)} | {len(each.stages)} |" for each in recipes]
    listed = (
        "# Recipes\n\nA recipe is a list of stages. `--recipe NAME` takes one, `--set STAGE.KEY=VALUE` changes it. "
        "When to use which, and every knob: [the guide](../recipes.md).\n\n"
        f"| recipe | what it does | stages |\n|---|---|---|\n{_lines(rows)}\n"
    )
    # The guide is `recipes.md`: a folder of that name would be the same address for some servers.
    return {"all-recipes/index.md": listed, **{f"all-recipes/{each.name}.md": recipe_page(each) for each in recipes}}


def recipe_page(recipe: RecipeSpec) -> str:
    """The page of a recipe: its stages, and what each sets otherwise than the default."""
    rows = [_stage_row(stage) for stage in recipe.stages]
    if len(recipe.stages) == 1:
        end = "It has one stage, which is kept."
    elif recipe.keep == "last":
        end = "The last stage is kept."
    else:
        end = f"Of the ends of its stages the best on validation is kept, by {recipe.choose_by}."
    sources = f"\n\nSources: {', '.join(map(_reference, recipe.references))}." if recipe.references else ""
    return (
        f"# {recipe.name}\n\n{recipe.summary}\n\n```\nzoo finetune --backbone resnet18 --recipe {recipe.name} "
        f"--data photos/\n```\n\n## Stages\n\n| stage | trains | epochs | rate | and |\n|---|---|---|---|---|\n"
        f"{_lines(rows)}\n\n{end} What each key means, and its default: [the table of knobs](../recipes.md#knobs).\n\n"
        f"## As a file\n\n`zoo show {recipe.name} > my.toml` prints it with every default; `--recipe my.toml` takes "
        f"what you made of it.{sources}\n"
    )


def _stage_row(stage: Stage) -> str:
    shown = {"name", "train", "epochs", "lr"}
    defaults = {name: field.default for name, field in Stage.model_fields.items()}
    others = {key: value for key, value in stage.given().items() if key not in shown and value != defaults[key]}
    given = stage.given()
    trains = ", ".join(f"`{selector}`" for selector in stage.train)
    further = ", ".join(f"`{key}` {_value(value)}" for key, value in others.items())
    return (
        f"| {stage.name} | {trains} | {given.get('epochs', '-')} | {_value(given.get('lr', '-'))} | {further or '-'} |"
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value)


def _options(options: type[Any]) -> str:
    """A table of a head's options with type, default and meaning; empty for none."""
    meanings, types = field_docstrings(options), get_type_hints(options)
    rows = [
        f"| `{each.name}` | {_cell(_type(types[each.name]))} | `{each.default}` | {_cell(meanings[each.name])} |"
        for each in fields(options)
    ]
    return f"| option | type | default | meaning |\n|---|---|---|---|\n{_lines(rows)}\n" if rows else ""


def field_docstrings(described: type[Any]) -> dict[str, str]:
    """The string that stands below each field in the source. Raises KeyError later for a field without one."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(described))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_type, get_args(hint)))
    return "`None`" if hint is type(None) else f"`{hint if get_args(hint) else hint.__name__}`"


def _reference(text: str) -> str:
    kind, _, number = text.partition(":")
    return f"[{text}](https://arxiv.org/abs/{number})" if kind == "arXiv" else f"<{text}>" if "://" in text else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _lines(rows: list[str]) -> str:
    return "\n".join(rows)
