"""How a saved classifier computes where another precision is asked for than it was trained with."""

from __future__ import annotations

import copy

from zoo.artefact.config import ArtefactConfig
from zoo.compute import Compute
from zoo.events import Report
from zoo.model.model import ZooModel
from zoo.planning.speed import choose_compute


def compute_for(model: ZooModel, config: ArtefactConfig, *, device: str, precision: str, report: Report) -> Compute:
    """`float32`, `bfloat16`: that, in the layout it was trained with; `auto`: what is faster here, measured once."""
    if precision == "float32":
        return Compute("float32", config.memory_format)
    if precision == "bfloat16":
        return Compute("bfloat16", config.memory_format)
    _, height, width = model.preprocessing.input_size
    chosen, _ = choose_compute(
        lambda: copy.deepcopy(model),  # its tensors are laid out anew for every candidate
        name=f"{config.backbone.name} {height}x{width} {model.needs}",
        device=device,
        trains=False,
        precision=precision,
        tune=True,
        report=report,
    )
    return chosen
