"""The backbone translated by torch.compile, for use alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import DeviceError, first_line
from zoo.model.model import Features, ZooModel


def compile_backbone(model: ZooModel, *, batch: int) -> ZooModel:
    """Translate the pass from images to features, now: seconds to minutes, for one size of batch.

    Its kernels add in another order: logits differ as they do between two machines. The model can still be used with
    any number of images, not trained.

    Raises DeviceError where torch.compile cannot do it, for want of a C++ compiler for instance.
    """
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.replace_features(lambda features: _in_batches(features, batch))
            model.features(torch.zeros(batch, *model.preprocessing.input_size, device=device))
    except Exception as error:  # whatever a compiler can fail with
        raise DeviceError(
            f"torch.compile cannot translate {model.name} here: {first_line(error)}\n"
            "Next: leave compiling out; on a CPU it needs a C++ compiler such as g++."
        ) from error
    return model


def _in_batches(features: Features, batch: int) -> Features:
    compiled = torch.compile(features, dynamic=False)

    def run(backbone: nn.Module, images: Tensor) -> Tensor:
        """Filled up to whole batches, for each other size would be translated anew."""
        found = []
        for part in torch.split(images, batch):
            missing = part.new_zeros(batch - len(part), *part.shape[1:])
            layout = torch.channels_last if part.is_contiguous(memory_format=torch.channels_last) else None
            whole = torch.cat([part, missing]).contiguous(memory_format=layout or torch.contiguous_format)
            found.append(compiled(backbone, whole)[: len(part)])
        return torch.cat(found)

    return run
