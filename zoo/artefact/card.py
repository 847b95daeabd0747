"""The model card, in the format of the Hugging Face hub."""

from __future__ import annotations

import json

from zoo.artefact.config import ArtefactConfig
from zoo.planning.plan import Plan


def model_card(config: ArtefactConfig, plan: Plan) -> str:
    """README.md of an artefact: front matter for the hub, then what a person wants to know."""
    val = config.metrics["val"]
    images = {split: sum(counts) for split, counts in plan.data.images.items()}
    lines = [
        "---",
        "library_name: zoo",
        "pipeline_tag: image-classification",
        *([f"base_model: {_quoted(config.backbone.name)}"] if plan.weights.kind == "tag" else []),
        "tags:",
        "- image-classification",
        "- zoo",
        "---",
        "",
        f"# {len(config.classes)} classes on {config.backbone.name}",
        "",
        f"Validation accuracy {val['accuracy']:.3f}, macro F1 {val['macro_f1']:.3f}, on {images['val']} images.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(_cell(name) for name in config.classes)} |",
        f"| backbone | `{config.backbone.name}`, started from `{config.backbone.weights}` |",
        f"| licence of the pretrained weights | {_licence(plan)} |",
        f"| head | `{config.head.name}` {_cell(json.dumps(config.head.options))} |",
        f"| recipe | `{_cell(config.recipe)}`: {_cell(plan.recipe_summary)} |",
        f"| images | {', '.join(f'{count} {split}' for split, count in images.items())} |",
        f"| preprocessing | {_described(config)} |",
        "",
        *(_test(config) if "test" in config.metrics else []),
        "```",
        "zoo predict . IMAGE",
        "```",
        "",
    ]
    return "\n".join(lines)


def _test(config: ArtefactConfig) -> list[str]:
    test = config.metrics["test"]
    return [f"Test accuracy {test['accuracy']:.3f}, macro F1 {test['macro_f1']:.3f}; looked at once, at the end.", ""]


def _licence(plan: Plan) -> str:
    if plan.weights.kind == "random":
        return "none: training started from random weights"
    if plan.weights.kind == "file":
        return "not known: they came from a file"
    return plan.backbone.licence or "not stated by their publisher"


def _described(config: ArtefactConfig) -> str:
    from zoo.preprocessing import Preprocessing

    return Preprocessing.from_dict(config.preprocessing).describe()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
