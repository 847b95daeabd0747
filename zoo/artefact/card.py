"""The model card: README.md of an artefact, in the format of the Hugging Face hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo.artefact.config import ArtefactConfig
from zoo.registry.session import object_arguments, of_session, were_objects
from zoo.specs.plan import Plan
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.run_result import JUDGED_IN_WORDS, OUT_OF_FOLD, judged_on, trained_before_in_words
from zoo.text import some

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_NAMED = 200
"""Most classes that the table names. config.json and the front matter have all."""
_PROOF_ROW = "| proof that what was frozen stayed frozen | "
_HUB_SPLITS = {"val": "validation"}
_HUB_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "openrail", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unlicense"),
)
"""The hub's identifiers of the licences that image weights are published under."""


def model_card(config: ArtefactConfig, plan: Plan, kept: str = "") -> str:
    """The text of an artefact's README.md: front matter for the hub, then the facts for people.

    `kept`: which of the recipe's models this is, in words; it is left out where nobody says.
    """
    judged = judged_on(config.metrics)
    scores = config.metrics[judged]
    images = {split: sum(counts) for split, counts in plan.data.images.items()}
    before = trained_before_in_words(plan.weights.trained_on)
    lines = [
        "---",
        _front_matter(config, plan),
        "---",
        "",
        f"# {len(config.classes)} classes on {config.backbone.name}",
        "",
        f"{JUDGED_IN_WORDS[judged].capitalize()} accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}, "
        f"on {images['train' if judged == OUT_OF_FOLD else judged]} images{_of_folds(plan)}.",
        "",
        *([f"**{before[0].upper()}{before[1:]}.**", ""] if before else []),
        "| | |",
        "|---|---|",
        f"| classes | {some([_cell(name) for name in config.classes], _NAMED)} |",
        f"| backbone | `{config.backbone.name}`, started from `{config.backbone.weights}` |",
        f"| licence of the pretrained weights | {_licence(plan)} |",
        f"| head | `{config.head.name}` {_cell(json.dumps(config.head.options))} |",
        f"| recipe | `{_cell(config.recipe)}`: {_cell(plan.recipe_summary)} |",
        *([f"| kept | {_cell(kept)} |"] if kept else []),
        *([f"| average of | {_sources(config)} |"] if config.sources else []),
        f"{_PROOF_ROW}{config.proof} |",
        f"| images | {', '.join(f'{count} {split}' for split, count in images.items())} |",
        f"| preprocessing | {Preprocessing.from_dict(config.preprocessing).describe()} |",
        "",
        *(_test(config) if "test" in config.metrics else []),
        *_use(config),
        "",
    ]
    return "\n".join(lines)


def _use(config: ArtefactConfig) -> list[str]:
    """How the classifier is used: by name, or with the objects that it was made with."""
    names = {"backbone": config.backbone.name, "head": config.head.name}
    objects = {kind: name for kind, name in names.items() if of_session(name)}
    if not objects:
        return ["```", "zoo predict . IMAGE", "```"]
    return [
        f"Its {were_objects(objects)}, which no package provides. Loading needs the same again:",
        "",
        "```python",
        f'zoo.load("."{object_arguments(objects)}).predict("IMAGE")',
        "```",
    ]


def _of_folds(plan: Plan) -> str:
    if plan.folds is None:
        return ""
    return f", each predicted by a fit to the other {plan.folds.count - 1} of {plan.folds.count} folds"


def marked_failed(card: str) -> str:
    """The card of a classifier whose proof failed after the card was written."""
    # Once in the front matter, under `zoo:`, and once in the table.
    for begin in ("\n  proof: ", f"\n{_PROOF_ROW}"):
        card = card.replace(f"{begin}passed", f"{begin}failed", 1)
    return card


def _front_matter(config: ArtefactConfig, plan: Plan) -> str:
    # Here, because its import takes a quarter of a second and only writing a card needs it.
    from huggingface_hub import ModelCardData

    licence, licence_name = _hub_licence(plan)
    data = ModelCardData(
        # Only published weights have a name that means the same to others.
        base_model=None if plan.weights.kind != "tag" or of_session(config.backbone.name) else config.backbone.name,
        license=licence,
        license_name=licence_name,
        library_name="zoo",
        pipeline_tag="image-classification",
        tags=["image-classification", "zoo"],
        metrics=["accuracy", "f1"],
        model_name=config.backbone.name,
        eval_results=_eval_results(config),
        # Keys of zoo's own, which the hub keeps and does not read.
        zoo={"recipe": config.recipe, "proof": config.proof, "classes": list(config.classes)},
    )
    return data.to_yaml()


def _eval_results(config: ArtefactConfig) -> list[EvalResult]:
    """The metrics as the hub shows them beside those of other models."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name="own images",
            dataset_split=_HUB_SPLITS.get(split, split),
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for split, metrics in config.metrics.items()
        for kind, name, value in (("accuracy", None, metrics["accuracy"]), ("f1", "macro F1", metrics["macro_f1"]))
    ]


def _hub_licence(plan: Plan) -> tuple[str | None, str | None]:
    """(identifier, name) of the licence of the pretrained weights, which binds what is made from them."""
    licence = plan.backbone.licence
    if plan.weights.kind != "tag" or not licence:
        return None, None
    # The hub refuses a card whose licence is no identifier that it knows; for all others it has `other` and a name.
    return (licence.lower(), None) if licence.lower() in _HUB_LICENCES else ("other", licence)


def _test(config: ArtefactConfig) -> list[str]:
    test = config.metrics["test"]
    return [f"Test accuracy {test['accuracy']:.3f}, macro F1 {test['macro_f1']:.3f}; looked at once, at the end.", ""]


def _sources(config: ArtefactConfig) -> str:
    return some([f"{_cell(source.name)} (`{source.digest[:12]}`)" for source in config.sources])


def _licence(plan: Plan) -> str:
    if plan.weights.kind == "random":
        return "none: training started from random weights"
    if plan.weights.kind == "file":
        return "unknown: they came from a file"
    if plan.weights.kind == "own":
        return "unknown: they were the values of a module that was passed as an object"
    return plan.backbone.licence or "not stated by their publisher"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
