"""A state dict for `torchvision.models.NAME(num_classes=N)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from zoo.errors import Refused
from zoo.exporting.layout import WHAT_WORKS, architecture_of, linear_of, refuse_provider, upstream_state
from zoo.exporting.subject import Subject, Written
from zoo.model.tensor_files import save_tensors
from zoo.model.undrawn import undrawn

LIBRARY = "torchvision"


def write(subject: Subject, path: Path) -> Written:
    """A safetensors file; its one header entry, `zoo`, has class names and preprocessing. Raises Refused."""
    linear = linear_of(subject, LIBRARY)
    refuse_provider(subject, LIBRARY)
    _refuse_own_ways(subject)
    name, _ = architecture_of(subject)
    arguments = _arguments(subject)
    with undrawn():
        module = models.get_model(name, weights=None, **arguments)
    state = upstream_state(subject, module, linear, LIBRARY)
    save_tensors(path, state, header=("zoo", subject.described()))
    module.load_state_dict(load_file(path))
    module.eval()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    said = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return Written(
        run=run,
        how=f"model = torchvision.models.{name}({said}); "
        'model.load_state_dict(safetensors.torch.load_file("{path}")); model.eval()',
    )


def _refuse_own_ways(subject: Subject) -> None:
    """Families whose classifier, or whose way of loading, is not what the names of the tensors say."""
    module = subject.model.backbone
    if isinstance(module, models.SqueezeNet):
        raise Refused(
            "SqueezeNet's own classifier applies a ReLU to the logits at each position before it pools them, so its "
            f"layout cannot hold a linear layer on pooled features.\n{WHAT_WORKS}"
        )
    if isinstance(module, models.MNASNet):
        raise Refused(
            "torchvision's MNASNet loads no state dict without a version in its metadata, which safetensors does not "
            f"keep.\n{WHAT_WORKS}"
        )


def _arguments(subject: Subject) -> dict[str, Any]:
    """What has to be said beside the number of classes, because the state dict does not."""
    module: Any = subject.model.backbone
    arguments: dict[str, Any] = {"num_classes": len(subject.config.classes)}
    if isinstance(module, (models.GoogLeNet, models.Inception3)):
        return {**arguments, "aux_logits": False, "transform_input": module.transform_input, "init_weights": False}
    if isinstance(module, models.VisionTransformer) and module.image_size != 224:
        return {**arguments, "image_size": module.image_size}
    return arguments
