"""A backbone's map: the features right before its family pools them.

torchvision has no method for it: each family is run up to its pooling, as its own `forward` in
`torchvision/models/` does. Nothing is hooked, so that the module can be compiled, exported and copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

Map = Callable[[nn.Module, Tensor], Tensor]
"""(module, images[N, 3, H, W]) -> map[N, C, H', W']"""

# The children of each family that come before its pooling, in the order of its `forward`. Auxiliary classifiers,
# which branch off in between, are not among them.
_RESNET = "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4"
_REGNET = "stem trunk_output"
_SHUFFLENET = "conv1 maxpool stage2 stage3 stage4 conv5"
# `permute` turns its NHWC into NCHW.
_SWIN = "features norm permute"
_GOOGLENET = (
    "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 "
    "inception4a inception4b inception4c inception4d inception4e maxpool4 inception5a inception5b"
)
_INCEPTION_V3 = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2 "
    "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
)


def map_of(module: nn.Module) -> Map | None:
    """How to get the map of a torchvision model, with or without its classifier; None for an unknown family."""
    return next((run for family, run in _FAMILIES.items() if isinstance(module, family)), None)


def map_channels(module: nn.Module, pooled: int) -> int:
    """C of the map[N, C, H', W'] of a module with features[N, pooled]; its family must be a known one.

    Pooling keeps the number of channels; only hidden layers after it change the width.
    """
    if not isinstance(module, _WITH_HIDDEN_LAYERS):
        return pooled
    features = module.get_submodule("features")
    return [each for each in features.modules() if isinstance(each, nn.Conv2d)][-1].out_channels


def _through(children: str) -> Map:
    """One child after the other."""
    names = children.split()

    def run(module: nn.Module, images: Tensor) -> Tensor:
        features = images
        for name in names:
            features = module.get_submodule(name)(features)
        return features

    return run


def _through_transformed(children: str) -> Map:
    """The same for the families that take [-1, 1] and convert the images themselves."""
    through = _through(children)

    def run(module: Any, images: Tensor) -> Tensor:
        return through(module, module._transform_input(images))

    return run


def _through_densenet(module: Any, images: Tensor) -> Tensor:
    # The activation after its last norm is in `forward`, not in `features`.
    return nn.functional.relu(module.features(images))


def _through_maxvit(module: Any, images: Tensor) -> Tensor:
    features: Tensor = module.stem(images)
    for block in module.blocks:
        features = block(features)
    return features


def _through_vit(module: Any, images: Tensor) -> Tensor:
    patches = module._process_input(images)
    class_token = module.class_token.expand(patches.shape[0], -1, -1)
    encoded: Tensor = module.encoder(torch.cat([class_token, patches], dim=1))
    # Patches are in the order of reading; the class token before them has no place in the grid.
    side: int = module.image_size // module.patch_size
    return encoded[:, 1:].transpose(1, 2).reshape(-1, module.hidden_dim, side, side)


_FAMILIES: dict[type[nn.Module], Map] = {
    models.ResNet: _through(_RESNET),
    models.RegNet: _through(_REGNET),
    models.DenseNet: _through_densenet,
    # Its LayerNorm comes after the pooling.
    models.ConvNeXt: _through("features"),
    models.SwinTransformer: _through(_SWIN),
    models.MaxVit: _through_maxvit,
    models.ShuffleNetV2: _through(_SHUFFLENET),
    models.MNASNet: _through("layers"),
    models.GoogLeNet: _through_transformed(_GOOGLENET),
    models.Inception3: _through_transformed(_INCEPTION_V3),
    models.AlexNet: _through("features"),
    models.VGG: _through("features"),
    models.SqueezeNet: _through("features"),
    models.EfficientNet: _through("features"),
    models.MobileNetV2: _through("features"),
    models.MobileNetV3: _through("features"),
    models.VisionTransformer: _through_vit,
}
_WITH_HIDDEN_LAYERS = (models.AlexNet, models.VGG, models.MobileNetV3)
