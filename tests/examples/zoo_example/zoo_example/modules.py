"""The torch module of the head; imported only when the head is built."""

from __future__ import annotations

from torch import Tensor, nn


class ScaledLinear(nn.Linear):
    """A linear layer whose output is multiplied by `scale`."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__(features, classes)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """features[N, F] -> logits[N, classes]."""
        return self.scale * super().forward(features)
