"""Write an artefact: a folder that is complete or does not exist."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.artefact.card import marked_failed, model_card
from zoo.artefact.config import (
    CARD,
    CONFIG,
    FORMAT,
    TENSORS,
    ArtefactConfig,
    BackboneConfig,
    GoldenConfig,
    HeadConfig,
    SourceConfig,
    sealed,
)
from zoo.artefact.golden import Golden, save_golden
from zoo.artefact.plugin_origin import shareable
from zoo.specs.plan import Plan
from zoo.storage.atomic import json_text, new_folder, write_text
from zoo.storage.tensors import file_digest, save_tensors


def write_artefact(
    path: Path,
    state: Mapping[str, torch.Tensor],
    plan: Plan,
    metrics: dict[str, dict[str, float]],
    proof: str,
    golden: Golden,
    kept: str = "",
    sources: Sequence[SourceConfig] = (),
) -> ArtefactConfig:
    """Write the artefact of a trained model -> its config.

    Args:
        path: The new folder.
        state: The model's tensors of any shape by name, `backbone.*` and `head.*`.
        plan: The run's plan.
        metrics: Split -> metric -> value.
        proof: The verdict so far, `passed` or `failed`; `mark_failed` corrects it later.
        golden: Golden logits that the model computed on the plan's device.
        kept: What the run kept, in words, for the model card.
        sources: The runs whose weights were averaged, where `state` is an average.

    Raises:
        RunError: The folder cannot be written.
    """
    with new_folder(path) as draft:
        save_tensors(draft / TENSORS, state)
        golden_config = save_golden(draft, golden, device=plan.device)
        # After the tensors, whose digests it holds, and before the card, which is written from it.
        config = _config(file_digest(draft / TENSORS), plan, metrics, proof, golden_config, sources)
        (draft / CONFIG).write_text(_sealed_text(config.model_dump(mode="json")), "utf-8")
        (draft / CARD).write_text(model_card(config, plan, kept), "utf-8")
    return config


def mark_failed(path: Path) -> None:
    """Record in an artefact and its card that the proof failed after they were written. Raises RunError."""
    content = json.loads((path / CONFIG).read_text("utf-8"))
    # The config before the card: if this is interrupted, what programs read says `failed`.
    write_text(path / CONFIG, _sealed_text({**content, "proof": "failed"}))
    write_text(path / CARD, marked_failed((path / CARD).read_text("utf-8")))


def _sealed_text(content: Mapping[str, Any]) -> str:
    # Sealed as a reader will see it: some values, such as a number that is not finite, are written differently.
    return json_text(sealed(json.loads(json_text(content))))


def _config(
    digest: str,
    plan: Plan,
    metrics: dict[str, dict[str, float]],
    proof: str,
    golden: GoldenConfig,
    sources: Sequence[SourceConfig],
) -> ArtefactConfig:
    return ArtefactConfig(
        format=FORMAT,
        digest=digest,
        backbone=BackboneConfig(
            name=plan.backbone.name,
            weights=plan.weights.label,
            weights_digest=plan.weights.digest,
            licence=plan.backbone.licence,
            distribution=plan.backbone.distribution,
            version=plan.backbone.version,
            installed_from=shareable(plan.backbone.installed_from),
        ),
        head=HeadConfig(
            name=plan.head.name,
            options=plan.head.options,
            layers=plan.head.layers or (),
            distribution=plan.head.distribution,
            version=plan.head.version,
            installed_from=shareable(plan.head.installed_from),
        ),
        classes=plan.classes,
        preprocessing=plan.preprocessing,
        recipe=plan.recipe,
        metrics=metrics,
        proof=proof,
        precision=plan.precision,
        memory_format=plan.memory_format,
        versions=plan.versions,
        golden=golden,
        sources=tuple(sources),
    )
