"""Writing an artefact: a folder that is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    sealed,
)
from zoo.artefact.golden import Golden, save_golden
from zoo.files import json_text, new_folder, write_text
from zoo.model.build import file_digest
from zoo.model.tensor_files import save_tensors
from zoo.planning.plan import Plan


def write_artefact(
    path: Path,
    state: Mapping[str, torch.Tensor],
    plan: Plan,
    metrics: dict[str, dict[str, float]],
    proof: str,
    golden: Golden,
) -> ArtefactConfig:
    """Write the artefact of a trained model's state (keys `backbone.*` and `head.*`). Raises RunError.

    `proof` is the verdict so far, `passed` or `failed`; `mark_failed` corrects it. `golden` was computed by the model
    on the plan's device.
    """
    with new_folder(path) as draft:
        save_tensors(draft / TENSORS, state)
        noted = save_golden(draft, golden, device=plan.device)
        config = _config(file_digest(draft / TENSORS), plan, metrics, proof, noted)
        (draft / CONFIG).write_text(_sealed_text(config.model_dump(mode="json")), "utf-8")
        (draft / CARD).write_text(model_card(config, plan), "utf-8")
    return config


def mark_failed(path: Path) -> None:
    """Note in an artefact, its card included, that its proof failed after it was written. Raises RunError."""
    content = json.loads((path / CONFIG).read_text("utf-8"))
    write_text(path / CONFIG, _sealed_text({**content, "proof": "failed"}))
    write_text(path / CARD, marked_failed((path / CARD).read_text("utf-8")))


def _sealed_text(content: Mapping[str, Any]) -> str:
    # Sealed is what a reader finds: not every value is written as it is.
    return json_text(sealed(json.loads(json_text(content))))


def _config(
    digest: str, plan: Plan, metrics: dict[str, dict[str, float]], proof: str, golden: GoldenConfig
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
        ),
        head=HeadConfig(
            name=plan.head.name,
            options=plan.head.options,
            distribution=plan.head.distribution,
            version=plan.head.version,
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
    )
