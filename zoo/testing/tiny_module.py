"""The torch module of the tiny backbone; imported when the backbone is built."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class Tiny(nn.Module):
    """Four convolution blocks and a group norm: images[N, 3, H, W] -> pooled features[N, width].

    Each attribute is a group of the backbone, as `zoo.testing.tiny` names them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = _block(3, width, stride=2)
        self.stage1 = _block(width, width, stride=2)
        self.stage2 = _block(width, width, stride=2)
        self.stage3 = _block(width, width, stride=1)
        self.norm = nn.GroupNorm(1, width)

    def map(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> map[N, width, H/8, W/8], the features before pooling."""
        features: Tensor = self.norm(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> features[N, width], the mean over the map's positions."""
        return self.map(images).mean((2, 3))


def _block(channels: int, width: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, width, 3, stride=stride, padding=1),
            # Statistics that a frozen block must not update, and below, numbers that only training mode draws.
            norm=nn.BatchNorm2d(width),
            activation=nn.ReLU(),
            dropout=nn.Dropout(0.1),
        )
    )
