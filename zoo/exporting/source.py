"""What a format's writer gets, the classifier to export, and what it returns, so that the export can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.golden import Golden, compute_logits, draw_pictures, preprocess, read_golden
from zoo.artefact.read import check_versions, read_model
from zoo.events import Note, Report
from zoo.exporting.comparisons import Int8Comparison, PictureComparison
from zoo.model.model import ZooModel
from zoo.registry.registry import Registry
from zoo.specs.plan import Compute


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSource:
    """The classifier to export: in evaluation mode, in float32, on the CPU."""

    model: ZooModel
    config: ArtefactConfig
    pictures: Tensor
    """Test pictures before preprocessing, uint8[N, 3, h, w]."""
    images: Tensor
    """The same pictures preprocessed, float32[M, 3, H, W]. M is N, or 2 where N is 1."""

    def logits(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> logits[N, classes], by the original."""
        return compute_logits(self.model, images)

    def described(self) -> str:
        """Return as JSON what the tensors do not tell: class names in the order of the logits, and so on."""
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
    """An export that was written and loaded again."""

    run: Callable[[Tensor], Tensor]
    """images[N, 3, H, W] -> logits[N, classes], by the loaded export and without zoo's code."""
    how: str
    """Python code that loads it; `{path}` stands for its path."""
    pictures: PictureComparison | None = None
    """Of an export that takes pictures: beside Pillow's preprocessing, in float32."""
    pictures_int8: PictureComparison | None = None
    """The same in 8 bits, where the export is in 8 bits."""
    int8: Int8Comparison | None = None
    """Of an export in 8 bits: beside float32."""


Write = Callable[[ExportSource, Path], Written]
"""(classifier, a path that does not exist yet) -> the export that was loaded from there.

A writer raises Refused, before it writes, for what the format cannot hold. Any other exception is a failure.
"""


def read_source(folder: Path, registry: Registry, report: Report) -> ExportSource:
    """Read a classifier from its artefact folder.

    Raises ArtefactError, also where the installed versions of its plugins give other logits than it had.
    """
    model, config = read_model(folder, registry)
    check_versions(model, folder, config, registry, report)  # before its own precision is changed
    if fault := config.fault(folder):
        report(Note(text=fault, loud=True))
    model.requires_grad_(False).compute_as(Compute())
    golden: Golden | None = read_golden(folder, config)
    pictures = golden.pictures if golden else draw_pictures(model.preprocessing)
    images = golden.images if golden else preprocess(pictures, model.preprocessing)
    if len(images) == 1:
        # torch.export takes a batch size of one for a constant.
        images = torch.cat([images, images.flip(3)])
    return ExportSource(model=model, config=config, pictures=pictures, images=images)
