"""The model card, in the format of the Hugging Face hub."""

from __future__ import annotations

import json

from zoo.artefact.config import ArtefactConfig
from zoo.planning.plan import Plan

_PROOF_KEY, _PROOF_ROW = "proof: ", "| proof that what was frozen stayed frozen | "
_HUB_SPLITS = {"val": "validation"}
_HUB_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "openrail", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unlicense"),
)
"""Identifiers that the hub knows, of those that weights for images come under."""


def model_card(config: ArtefactConfig, plan: Plan) -> str:
    """README.md of an artefact: front matter for the hub, then what a person wants to know."""
    val = config.metrics["val"]
    images = {split: sum(counts) for split, counts in plan.data.images.items()}
    lines = [
        "---",
        "library_name: zoo",
        "pipeline_tag: image-classification",
        *([f"base_model: {_quoted(config.backbone.name)}"] if plan.weights.kind == "tag" else []),
        *_licence_keys(plan),
        "tags:",
        "- image-classification",
        "- zoo",
        "metrics:",
        "- accuracy",
        "- f1",
        *_model_index(config),
        # Keys of zoo's own, which the hub keeps and does not read.
        "zoo:",
        f"  recipe: {_quoted(config.recipe)}",
        f"  {_PROOF_KEY}{config.proof}",
        f"  classes: {_quoted(list(config.classes))}",
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
        f"{_PROOF_ROW}{config.proof} |",
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


def marked_failed(card: str) -> str:
    """The same card of a classifier whose proof failed after it was written."""
    for begin in (f"\n  {_PROOF_KEY}", f"\n{_PROOF_ROW}"):
        card = card.replace(f"{begin}passed", f"{begin}failed", 1)
    return card


def _model_index(config: ArtefactConfig) -> list[str]:
    """The metrics as the hub shows them beside others' models."""
    lines = ["model-index:", f"- name: {_quoted(config.backbone.name)}", "  results:"]
    for split, metrics in config.metrics.items():
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            "      name: own images",
            "      type: imagefolder",
            f"      split: {_HUB_SPLITS.get(split, split)}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {metrics['accuracy']}",
            "    - type: f1",
            "      name: macro F1",
            f"      value: {metrics['macro_f1']}",
        ]
    return lines


def _licence_keys(plan: Plan) -> list[str]:
    """That of the pretrained weights: what is made from them is bound by it."""
    licence = plan.backbone.licence
    if plan.weights.kind != "tag" or not licence:
        return []
    if licence.lower() in _HUB_LICENCES:
        return [f"license: {licence.lower()}"]
    return ["license: other", f"license_name: {_quoted(licence)}"]


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


def _quoted(value: str | list[str]) -> str:
    """JSON, which is YAML too."""
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
