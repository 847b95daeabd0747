"""The pages of the Python reference: every public name, in the group of what people do with it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

STUB = Path(__file__).parents[1] / "zoo" / "__init__.pyi"


@dataclass(frozen=True, kw_only=True)
class Group:
    """A page of the reference."""

    title: str
    introduction: str
    names: tuple[str, ...]
    """Public names of this page whose module does not tell, first."""
    modules: tuple[str, ...]
    """Names from these modules, and from below them, follow."""


GROUPS = {
    "choose": Group(
        title="Choose",
        introduction="What there is, and which of it suits your images, before anything trains.",
        names=("shortlist", "learning_curve", "check_data", "check_labels", "apply_suspects"),
        modules=("api.probing", "api.overview", "api.data", "advice", "data.check"),
    ),
    "train": Group(
        title="Train",
        introduction="From a backbone and images to a finished run; and what a run says while it goes on.",
        names=("finetune", "plan", "resume", "soup", "sweep", "create_model", "Result", "Soup", "Sweep"),
        modules=(
            "planning",
            "events",
            "training",
            "api.pretrained",
            "api.runs",
            "api.sweeps",
            "sweeping",
            "data",
            "specs.plan",
        ),
    ),
    "judge": Group(
        title="Judge",
        introduction="How good a classifier is, whether it is unchanged, and which of several is better.",
        names=("evaluate", "compare", "report", "verify", "Evaluation", "Comparison", "Verification"),
        modules=("comparing", "evaluation", "reporting", "artefact.verify", "training.verify"),
    ),
    "use": Group(
        title="Use",
        introduction="Predict with a classifier, share it, and take it elsewhere.",
        names=("load", "Classifier", "Prediction", "export", "Exported", "push", "pull"),
        modules=("artefact", "exporting", "api.classifiers"),
    ),
    "errors": Group(
        title="Mend",
        introduction="What is raised, and when. Each message says what was asked, what was found, and the next step; "
        "the same kinds are in `--json` ([the command](../command.md)).",
        names=("ZooError",),
        modules=("errors",),
    ),
    "extend": Group(
        title="Extend",
        introduction="What plugins declare and call: [the guide](../plugins.md) shows how. Names from `zoo` are all "
        "that a plugin needs.",
        names=("hookimpl", "HeadSpec", "BackboneSpec", "RecipeSpec", "DataSourceSpec", "ObserverSpec"),
        modules=("",),
    ),
}
"""Pages by file name. The last takes what no other one does, so that no public name is left out."""


def pages() -> dict[str, str]:
    """Text of the first page and of one for each group, by path."""
    named = grouped(public_names())
    rows = [
        f"| [{group.title}]({key}.md) | {', '.join(f'[`{name}`][zoo.{name}]' for name in named[key])} |"
        for key, group in GROUPS.items()
    ]
    first = (
        "# Python\n\nEvery command has a function in `zoo` that takes the same words. `import zoo` loads no torch; "
        "a name is loaded when it is first used.\n\n"
        "| to | names |\n|---|---|\n" + "\n".join(rows) + "\n"
    )
    texts = {f"reference/{key}.md": page(group, named[key]) for key, group in GROUPS.items()}
    return {"reference/index.md": first, **texts}


def page(group: Group, names: list[str]) -> str:
    """A page with the docstring of each name."""
    return f"# {group.title}\n\n{group.introduction}\n\n" + "\n".join(f"::: zoo.{name}\n" for name in names)


def public_names() -> dict[str, str]:
    """The module inside zoo that each public name comes from, by name."""
    imports = [each for each in ast.parse(STUB.read_text("utf-8")).body if isinstance(each, ast.ImportFrom)]
    return {alias.name: each.module or "" for each in imports for alias in each.names}


def grouped(names: dict[str, str]) -> dict[str, list[str]]:
    """The names of every group in order, each name once."""
    placed = {name: key for key, group in GROUPS.items() for name in group.names}
    found: dict[str, list[str]] = {
        key: [name for name in group.names if name in names] for key, group in GROUPS.items()
    }
    for name, module in names.items():
        if name not in placed:
            found[_of_module(module)].append(name)
    return found


def _of_module(module: str) -> str:
    """The group with the longest beginning of a module's name."""
    fitting = [
        (len(start), key)
        for key, group in GROUPS.items()
        for start in group.modules
        if not start or f"{module}.".startswith(f"{start}.")
    ]
    return max(fitting)[1]
