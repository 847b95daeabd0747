"""How a saved classifier computes where another way is asked for than it was trained with."""

from __future__ import annotations

import copy
from pathlib import Path

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.golden import TOLERANCE, read_golden
from zoo.compute import Compute
from zoo.events import Note, Report
from zoo.model.compiling import compile_backbone
from zoo.model.folding import fold_batch_norms
from zoo.model.model import ZooModel
from zoo.planning.speed import choose_compute


def compute_as_asked(
    model: ZooModel, config: ArtefactConfig, folder: Path, *, device: str, precision: str, report: Report
) -> None:
    """`float32`, `bfloat16`: that, in the layout it was trained with; `auto`: what is faster here, measured once, with
    batch norms folded where the golden logits stay the same within their tolerance in float32."""
    if precision != "auto":
        half = precision == "bfloat16"
        model.compute_as(Compute("bfloat16" if half else "float32", config.memory_format))
        return
    golden = read_golden(folder, config)
    images = None if golden is None else golden.images.to(device)
    folded = 0 if images is None else fold_batch_norms(model, images, tolerance=TOLERANCE["float32"])
    shape = "x".join(map(str, model.preprocessing.input_size[1:]))
    name = f"{config.backbone.name} {shape} {model.needs}{' folded' if folded else ''}"
    model.compute_as(_fastest(model, name, device, report))


def compile_for(model: ZooModel, *, batch: int, report: Report) -> None:
    """Translate the backbone by torch.compile for batches of this size. Raises DeviceError."""
    report(Note(text="Compiling the backbone for this machine; the first time it may take a minute."))
    compile_backbone(model, batch=batch)


def _fastest(model: ZooModel, name: str, device: str, report: Report) -> Compute:
    chosen, _ = choose_compute(
        lambda: copy.deepcopy(model),  # its tensors are laid out anew for every candidate
        name=name,
        device=device,
        trains=False,
        precision="auto",
        tune=True,
        report=report,
    )
    return chosen
