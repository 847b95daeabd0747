"""What is exported, and what an export has to hand back so that it can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.golden import Golden, draw_pictures, logits_of, preprocessed, read_golden
from zoo.artefact.read import read_model
from zoo.artefact.versions import check_versions
from zoo.compute import Compute
from zoo.events import Note, Report
from zoo.model.model import ZooModel
from zoo.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A classifier as it is exported: in evaluation mode, in float32, on the CPU."""

    model: ZooModel
    config: ArtefactConfig
    pictures: Tensor
    """uint8[N, 3, h, w], before preprocessing."""
    images: Tensor
    """float32[N, 3, H, W]: the same, preprocessed."""

    def logits(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> logits[N, classes] of the original."""
        return logits_of(self.model, images)

    def described(self) -> str:
        """JSON of what the tensors do not say: class names in the order of the logits, preprocessing, origin."""
        config = self.config
        content = {
            "classes": config.classes,
            "preprocessing": config.preprocessing,
            "backbone": config.backbone.name,
            "head": config.head.name,
            "licence": config.backbone.licence,
            "digest": config.digest,
        }
        return json.dumps(content, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """An export that was written and read again."""

    run: Callable[[Tensor], Tensor]
    """images[N, 3, H, W] -> logits[N, classes] by what was read, without anything of zoo."""
    how: str
    """Python that loads it; `{path}` is where it lies."""


Write = Callable[[Subject, Path], Written]
"""(what to export, a path that does not exist yet) -> what was read from there. Raises Refused for what the format
cannot hold, before it writes; any exception where it failed."""


def read_subject(folder: Path, registry: Registry, report: Report) -> Subject:
    """Raises ArtefactError, also where other versions of its plugins give other logits."""
    model, config = read_model(folder, registry)
    check_versions(model, folder, config, registry, report)  # in its own precision
    if fault := config.fault(folder):
        report(Note(text=fault, loud=True))
    model.requires_grad_(False).compute_as(Compute())
    golden: Golden | None = read_golden(folder, config)
    pictures = golden.pictures if golden else draw_pictures(model.preprocessing)
    images = golden.images if golden else preprocessed(pictures, model.preprocessing)
    if len(images) == 1:
        # Tracing takes a batch of one for a fixed number.
        images = torch.cat([images, images.flip(3)])
    return Subject(model=model, config=config, pictures=pictures, images=images)
