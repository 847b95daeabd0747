"""The map of a torchvision model: the features right before it pools them.

torchvision has no method for that, so each family is run up to its pooling as its own `forward` in
`torchvision/models/` does it. No hooks are used, so that the module can be compiled, exported and copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

MapFunction = Callable[[nn.Module, Tensor], Tensor]
"""(module, images[N, 3, H, W]) -> map[N, C, H', W']"""

# The children of each family that come before its pooling, in the order of its `forward`, without the auxiliary
# classifiers that branch off in between.
_RESNET = "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4"
_REGNET = "stem trunk_output"
_SHUFFLENET = "conv1 maxpool stage2 stage3 stage4 conv5"
# `permute` turns NHWC into NCHW.
_SWIN = "features norm permute"
_GOOGLENET = (
    "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 "
    "inception4a inception4b inception4c inception4d inception4e maxpool4 inception5a inception5b"
)
_INCEPTION_V3 = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2 "
    "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
)


def feature_map(module: nn.Module) -> MapFunction | None:
    """Return the function that computes the model's map, or None for an unknown family.

    The model may have a classifier or not.
    """
    return next((compute for family, compute in _FAMILIES.items() if isinstance(module, family)), None)


def map_width(module: nn.Module, pooled: int) -> int:
    """Return C of the map[N, C, H', W'] of a model with features[N, pooled]. Its family must be a known one."""
    # Pooling keeps the number of channels. Only hidden layers after it change the width.
    if not isinstance(module, _WITH_HIDDEN_LAYERS):
        return pooled
    features = module.get_submodule("features")
    return [child for child in features.modules() if isinstance(child, nn.Conv2d)][-1].out_channels


def _through(children: str) -> MapFunction:
    """Return a function that runs these children, separated by spaces, one after the other."""
    names = children.split()

    def run(module: nn.Module, images: Tensor) -> Tensor:
        features = images
        for name in names:
            features = module.get_submodule(name)(features)
        return features

    return run


def _through_transformed(children: str) -> MapFunction:
    """Do the same for the families that first convert the images to [-1, 1]."""
    through = _through(children)

    def run(module: Any, images: Tensor) -> Tensor:
        return through(module, module._transform_input(images))

    return run


def _through_densenet(module: Any, images: Tensor) -> Tensor:
    # The activation after the last norm is in `forward`, not in `features`.
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
    # The class token comes first and has no place in the grid; the patches follow row by row.
    side: int = module.image_size // module.patch_size
    return encoded[:, 1:].transpose(1, 2).reshape(-1, module.hidden_dim, side, side)


_FAMILIES: dict[type[nn.Module], MapFunction] = {
    models.ResNet: _through(_RESNET),
    models.RegNet: _through(_REGNET),
    models.DenseNet: _through_densenet,
    # ConvNeXt's last LayerNorm comes after the pooling.
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
