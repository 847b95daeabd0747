"""torch.export's program: `torch.export.load(PATH).module()(images)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from zoo.exporting.subject import Subject, Written

DESCRIPTION = "zoo.json"
"""Name of the extra file in the archive: class names, preprocessing, origin."""


def write(subject: Subject, path: Path) -> Written:
    """A program for any number of images."""
    program = torch.export.export(
        subject.model, (subject.images,), dynamic_shapes={"images": {0: Dim("batch", min=1)}}, strict=False
    )
    torch.export.save(program, path, extra_files={DESCRIPTION: subject.described()})
    module: Any = torch.export.load(path).module()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return Written(run=run, how='torch.export.load("{path}").module()(images)')
