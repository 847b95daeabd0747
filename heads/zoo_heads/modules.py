"""The bundled heads' own torch modules. `zoo_heads` imports this when it builds a head, not before."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_GEM_EPS = 1e-6
# Rounding can put a cosine at 1 or above, where the slope of sqrt(1 - cos²) is infinite.
_LEAST_SQUARED_SINE = 1e-7
_LEAST_NORM = 1e-6


class ConcatPool(nn.Module):
    """map[N, C, H, W] -> [N, 2C]: each channel's maximum, then each channel's mean (fastai's AdaptiveConcatPool2d)."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)


class GeneralisedMeanPool(nn.Module):
    """map[N, C, H, W] -> [N, C]: (mean of x^p)^(1/p) of each channel, values below 1e-6 raised to it.

    p is learned, one for all channels (arXiv:1711.02512). p = 1 is the mean; the larger p, the closer to the maximum.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([float(p)]))

    def forward(self, features: Tensor) -> Tensor:
        # Through logarithms: a power itself leaves float32's range (1e-6^8 is 0, and the root of 0 has no slope).
        # Not with logsumexp: it needs log(H·W), and an exported program would then take maps of one size only.
        powers = _at_least_float32(self.p) * _at_least_float32(features).clamp(min=_GEM_EPS).flatten(2).log()
        largest = powers.detach().amax(2, keepdim=True)
        pooled = ((powers - largest).exp().mean(2).log() + largest.squeeze(2)) / _at_least_float32(self.p)
        return pooled.exp().to(features.dtype)


class AttentionPool(nn.Module):
    """map[N, C, H, W] -> [N, C]: one learned query for each attention head looks at all positions.

    Layer norm, multi-head attention, layer norm: pooling by multi-head attention (arXiv:1810.00825) as vision
    transformers use it (the MAP head of arXiv:2106.04560). The perceptron behind the attention is left out: it would
    add 8C² parameters to these 3C², and the data sets are small.
    """

    def __init__(self, channels: int, heads: int) -> None:
        """`heads` must divide `channels`."""
        super().__init__()
        width = channels // heads
        # A backbone's map can have any scale; the transformers' own maps are normalised already.
        self.norm_in = nn.LayerNorm(channels)
        # What else multi-head attention has would change nothing: a query's projection makes one learned vector of
        # another, a key's bias adds the same to all scores, and a value's bias to the projection's.
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, width), std=0.02))
        self.key = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, channels)).view(heads, width, channels))
        self.value = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, channels)).view(heads, width, channels))
        self.projection = nn.Linear(channels, channels)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        positions = self.norm_in(features.flatten(2).transpose(1, 2))
        # The query is the same for all images and attention is linear in the values, so keys and values need not be
        # computed for each position: that would take C/heads times the work.
        directions = torch.einsum("hd,hdc->hc", self.query, self.key) / math.sqrt(self.query.shape[1])
        attention = torch.einsum("npc,hc->nhp", positions, directions).softmax(dim=2)
        seen = torch.einsum("nhp,npc->nhc", attention, positions)
        values = torch.einsum("nhc,hdc->nhd", seen, self.value)
        pooled: Tensor = self.norm_out(self.projection(values.flatten(1)))
        return pooled


class CosineClassifier(nn.Module):
    """features[N, F] -> logits[N, classes]: a learned scale times the cosine to each class's weights; no bias."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = _class_weights(features, classes)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * cosines(features, self.weight)


class ArcFace(nn.Module):
    """features[N, F] -> logits[N, classes]: `scale` times the cosine to each class's weights; no bias.

    `loss` makes the angle to the true class's weights larger by `margin` radians (arXiv:1801.07698).
    """

    def __init__(self, features: int, classes: int, margin: float, scale: float) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale
        self.weight = _class_weights(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * cosines(features, self.weight)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy against targets[N], with the margin."""
        cosine = cosines(features, self.weight)
        index = targets.unsqueeze(1)
        with_margin = cosine.scatter(1, index, self._with_margin(cosine.gather(1, index)))
        return functional.cross_entropy(self.scale * with_margin, targets)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        """cos(θ + margin) for the cosines of θ."""
        sine = (1 - cosine.square()).clamp(min=_LEAST_SQUARED_SINE).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        # Where θ + margin exceeds pi, cos(θ + margin) would rise again with θ: the reference implementation's line
        # there goes on falling.
        falling = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, falling)


class NearestClassMean(nn.Module):
    """features[N, F] -> logits[N, classes] by the distance to each class's mean; there is nothing to train.

    With x a feature scaled to length 1 and c a class's mean of such features: `cosine` is scale * cos(x, c),
    `euclidean` is -scale/2 * |x - c|². Neither spans more than 2 * scale, whatever F is.
    """

    prototypes: Tensor
    """[classes, F]: the means; zero, and all logits equal, before `fit`."""

    def __init__(self, features: int, classes: int, metric: Literal["cosine", "euclidean"], scale: float) -> None:
        super().__init__()
        self.metric = metric
        self.scale = scale
        self.register_buffer("prototypes", torch.zeros(classes, features))

    def forward(self, features: Tensor) -> Tensor:
        if self.metric == "cosine":
            return self.scale * cosines(features, self.prototypes)
        features, prototypes = _unit(features), _at_least_float32(self.prototypes)
        # |x - c|² without an [N, classes, F] tensor; all three terms are at most 2, so nothing is lost.
        squared = features.square().sum(1, keepdim=True) + prototypes.square().sum(1) - 2 * features @ prototypes.T
        return -0.5 * self.scale * squared

    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Set `prototypes` from features[N, F] and targets[N]. Raises ValueError where a class has no feature."""
        classes = len(self.prototypes)
        counts = torch.bincount(targets, minlength=classes).tolist()
        missing = [str(index) for index, count in enumerate(counts) if not count]
        if missing:
            raise ValueError(f"a class mean needs at least one feature: there is none for class {', '.join(missing)}")
        # In float64, so that the order of the images is lost in rounding; class by class, which is deterministic on
        # every device, as adding by index is not.
        means = [functional.normalize(features[targets == index].double(), dim=1).mean(0) for index in range(classes)]
        self.prototypes.copy_(torch.stack(means))


def cosines(features: Tensor, weights: Tensor) -> Tensor:
    """features[N, F], weights[classes, F] -> the cosine of each pair, [N, classes]; half precision is widened first."""
    return _unit(features) @ _unit(weights).T


def _unit(vectors: Tensor) -> Tensor:
    # The bound only keeps the gradient of a vector of zeros finite.
    return functional.normalize(_at_least_float32(vectors), dim=1, eps=_LEAST_NORM)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _class_weights(features: int, classes: int) -> nn.Parameter:
    # Rows of about length 1, as the features are compared: a step of the optimizer turns them as far whatever F is.
    return nn.Parameter(torch.empty(classes, features).normal_(std=features**-0.5))
