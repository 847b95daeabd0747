"""Export to a program of torch.export: `torch.export.load(PATH).module()(images)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from zoo.exporting.source import ExportSource, Written

DESCRIPTION = "zoo.json"
"""The extra file in the archive with class names, preprocessing and origin."""


def write(source: ExportSource, path: Path) -> Written:
    """Write a program for any number of images."""
    program = torch.export.export(
        source.model, (source.images,), dynamic_shapes={"images": {0: Dim("batch", min=1)}}, strict=False
    )
    torch.export.save(program, path, extra_files={DESCRIPTION: source.described()})
    # From the file: what is compared afterwards is what users load.
    module: Any = torch.export.load(path).module()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return Written(run=run, how='torch.export.load("{path}").module()(images)')
