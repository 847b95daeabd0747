"""Export to a state dict for `torchvision.models.NAME(num_classes=N)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from zoo.errors import Refused
from zoo.exporting.formats import WHAT_WORKS
from zoo.exporting.layout import architecture_of, linear_of, refuse_provider, upstream_state
from zoo.exporting.source import ExportSource, Written
from zoo.model.build import skip_init
from zoo.storage.tensors import save_tensors

LIBRARY = "torchvision"


def write(source: ExportSource, path: Path) -> Written:
    """Write a safetensors file whose one header entry, `zoo`, has class names and preprocessing.

    Raises Refused for another library's backbone, and for a head or classifier that is not one linear layer.
    """
    linear = linear_of(source, LIBRARY)
    refuse_provider(source, LIBRARY)
    _refuse_special_families(source)
    name, _ = architecture_of(source)
    arguments = _arguments(source)
    with skip_init():
        module = models.get_model(name, weights=None, **arguments)
    state = upstream_state(source, module, linear, LIBRARY)
    save_tensors(path, state, header=("zoo", source.described()))
    # From the file, as its users will, so that what is compared is what was written.
    module.load_state_dict(load_file(path))
    module.eval()  # torchvision's models are made in training mode

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return Written(
        run=run,
        how=f"model = torchvision.models.{name}({shown}); "
        'model.load_state_dict(safetensors.torch.load_file("{path}")); model.eval()',
    )


def _refuse_special_families(source: ExportSource) -> None:
    """Raise Refused for families that compute or load otherwise than the names of their tensors tell."""
    module = source.model.backbone
    if isinstance(module, models.SqueezeNet):
        raise Refused(
            "SqueezeNet's own classifier applies a ReLU to the logits at each position before it pools them, so its "
            f"layout cannot hold a linear layer on pooled features.\n{WHAT_WORKS}"
        )
    if isinstance(module, models.MNASNet):
        raise Refused(
            "torchvision's MNASNet needs a version in the metadata of its state dict, which safetensors does not "
            f"store.\n{WHAT_WORKS}"
        )


def _arguments(source: ExportSource) -> dict[str, Any]:
    """Return the arguments that create the model: the number of classes, and what the state dict does not tell."""
    module: Any = source.model.backbone
    arguments: dict[str, Any] = {"num_classes": len(source.config.classes)}
    if isinstance(module, (models.GoogLeNet, models.Inception3)):
        return {**arguments, "aux_logits": False, "transform_input": module.transform_input, "init_weights": False}
    if isinstance(module, models.VisionTransformer) and module.image_size != 224:
        return {**arguments, "image_size": module.image_size}
    return arguments
