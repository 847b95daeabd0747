"""Networks as people get them from torchvision or timm, filled from a file, with their weights' preprocessing.

A name is torchvision's, or `timm/` and timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import timm.data
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode

_TIMM = "timm/"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How the weights want their images."""

    size: int
    """Height and width of what the network gets, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: InterpolationMode
    evaluation: Callable[[Any], Tensor]
    """Upstream's own transform of a PIL image."""


@dataclass(frozen=True)
class Network:
    """A network of torchvision or timm."""

    name: str

    @property
    def of_timm(self) -> bool:
        return self.name.startswith(_TIMM)

    @property
    def upstream(self) -> str:
        """The name without the library."""
        return self.name.removeprefix(_TIMM)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """That of upstream's default weights."""
        if not self.of_timm:
            transform = self.weights.transforms()
            size = transform.crop_size[0]
            return Preprocessing(size, transform.mean, transform.std, transform.interpolation, transform)
        library: Any = timm.data
        default: Any = timm.get_pretrained_cfg(self.upstream, allow_unregistered=False)
        config = library.resolve_data_config(pretrained_cfg=default.to_dict() if default else {})
        return Preprocessing(
            config["input_size"][-1],
            config["mean"],
            config["std"],
            InterpolationMode(config["interpolation"]),
            library.create_transform(**config, is_training=False),
        )

    @property
    def weights(self) -> Any:
        """torchvision's default weights."""
        return models.get_model_weights(self.upstream).DEFAULT

    def build(self, weights: str) -> nn.Module:
        """The whole network; `weights`: a safetensors file that has all of it, or nothing for random ones."""
        module: nn.Module = timm.create_model(self.upstream) if self.of_timm else models.get_model(self.upstream)
        if weights:
            module.load_state_dict(tensors(weights))
        return module

    def features(self, weights: str) -> nn.Module:
        """The network without its classifier: `images[N, 3, H, W]` -> `features[N, F]`."""
        module: Any = self.build(weights)
        if self.of_timm:
            module.reset_classifier(0)
            return module  # type: ignore[no-any-return]
        if isinstance(module, models.SqueezeNet):  # it classifies by a convolution
            return nn.Sequential(module.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        last = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1]
        module.set_submodule(last, nn.Identity())
        return module  # type: ignore[no-any-return]


def tensors(weights: str) -> dict[str, Tensor]:
    """The file's tensors, those that were rounded to half precision as float32."""
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in load_file(weights).items()}


@torch.inference_mode()
def width(features: nn.Module, size: int) -> int:
    """Number of features that the module gives for an image of `size` pixels."""
    return int(features.eval()(torch.zeros(1, 3, size, size)).shape[1])
