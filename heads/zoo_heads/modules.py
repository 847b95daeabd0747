"""The torch modules of the bundled heads. `zoo_heads` imports this module only when it builds a head."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_GEM_EPS = 1e-6
# Rounding can make a cosine 1 or more, where the derivative of sqrt(1 - cos²) is infinite.
_MIN_SQUARED_SINE = 1e-7
_MIN_NORM = 1e-6


class ConcatPool(nn.Module):
    """Concatenate the maximum and the mean of each channel (fastai's AdaptiveConcatPool2d, arXiv:2002.04688)."""

    def forward(self, features: Tensor) -> Tensor:
        """map[N, C, H, W] -> pooled[N, 2C]: C maxima, then C means."""
        return torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)


class GeneralisedMeanPool(nn.Module):
    """GeM: the generalised mean of each channel (arXiv:1711.02512).

    With x the C channels' values over the H·W positions, clamped to at least 1e-6:

        pooled = (mean over positions of x^p)^(1/p)

    The exponent p is learned, one for all channels. p = 1 is the mean; larger p approaches the maximum.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([float(p)]))

    def forward(self, features: Tensor) -> Tensor:
        """map[N, C, H, W] -> pooled[N, C], in the map's dtype."""
        # In logarithms, because x^p itself leaves float32's range: 1e-6^8 is 0, and the root of 0 has no derivative.
        # Not logsumexp, which needs log(H·W): an exported program would then accept maps of one size only.
        powers = _at_least_float32(self.p) * _at_least_float32(features).clamp(min=_GEM_EPS).flatten(2).log()
        largest = powers.detach().amax(2, keepdim=True)
        pooled = ((powers - largest).exp().mean(2).log() + largest.squeeze(2)) / _at_least_float32(self.p)
        return pooled.exp().to(features.dtype)


class AttentionPool(nn.Module):
    """Pool by multi-head attention (arXiv:1810.00825) with one learned query q_h of width d = C / heads per head h.

    With x_p the layer-normed channels at position p, and K_h, V_h the key and value projections of head h:

        a_hp   = softmax over p of (q_h · K_h x_p / sqrt(d))
        pooled = layer norm(W [sum over p of a_hp V_h x_p, for every h] + b)

    Vision transformers use it as the MAP head (arXiv:2106.04560). Their MLP after the attention is left out: it would
    add 8C² parameters to these 3C², too many for small data sets.
    """

    def __init__(self, channels: int, heads: int) -> None:
        """Create the pooling for maps of `channels` channels; `heads` must divide them."""
        super().__init__()
        width = channels // heads
        # Maps of convolutional backbones can have any scale; those of transformers are normalised already.
        self.norm_in = nn.LayerNorm(channels)
        # The other parameters of multi-head attention are redundant here: projecting a learned query gives another
        # learned vector, a key bias adds the same number to all scores, and a value bias adds to the projection's bias.
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, width), std=0.02))
        self.key = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, channels)).view(heads, width, channels))
        self.value = nn.Parameter(nn.init.xavier_uniform_(torch.empty(channels, channels)).view(heads, width, channels))
        self.projection = nn.Linear(channels, channels)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """map[N, C, H, W] -> pooled[N, C]."""
        positions = self.norm_in(features.flatten(2).transpose(1, 2))
        # The query is the same for all images, and attention is linear in the values. So the key projection is applied
        # to the query and the value projection to the weighted mean, not to each position: C/heads times less work.
        directions = torch.einsum("hd,hdc->hc", self.query, self.key) / math.sqrt(self.query.shape[1])
        attention = torch.einsum("npc,hc->nhp", positions, directions).softmax(dim=2)
        attended = torch.einsum("nhp,npc->nhc", attention, positions)
        values = torch.einsum("nhc,hdc->nhd", attended, self.value)
        pooled: Tensor = self.norm_out(self.projection(values.flatten(1)))
        return pooled


class CosineClassifier(nn.Module):
    """Cosine classifier without bias (arXiv:1804.09458): logit_c = scale * cos(x, w_c), with a learned scale."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = _class_weights(features, classes)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def forward(self, features: Tensor) -> Tensor:
        """features[N, F] -> logits[N, classes]."""
        return self.scale * cosines(features, self.weight)


class ArcFace(nn.Module):
    """Additive angular margin (arXiv:1801.07698), without bias.

    With θ_c the angle between a feature and the weights of class c: logit_c = scale * cos(θ_c). In `loss`, the logit of
    the true class y is scale * cos(θ_y + margin) instead, with the margin in radians.
    """

    def __init__(self, features: int, classes: int, margin: float, scale: float) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale
        self.weight = _class_weights(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """features[N, F] -> logits[N, classes], without the margin."""
        return self.scale * cosines(features, self.weight)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """features[N, F], targets[N] -> the mean cross-entropy with the margin, a scalar."""
        cosine = cosines(features, self.weight)
        index = targets.unsqueeze(1)
        with_margin = cosine.scatter(1, index, self._with_margin(cosine.gather(1, index)))
        return functional.cross_entropy(self.scale * with_margin, targets)

    def _with_margin(self, cosine: Tensor) -> Tensor:
        """cos(θ)[N, 1] -> cos(θ + margin)[N, 1]."""
        sine = (1 - cosine.square()).clamp(min=_MIN_SQUARED_SINE).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        # Where θ + margin exceeds pi, cos(θ + margin) would increase with θ again. There the reference implementation
        # uses this line, which keeps decreasing.
        falling = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, falling)


class NearestClassMean(nn.Module):
    """Classify by the nearest class mean (arXiv:1703.05175). It is fitted in closed form and has no parameters.

    With x a feature scaled to length 1, and m_c the mean of class c over such features:

        metric `cosine`:    logit_c = scale * cos(x, m_c)
        metric `euclidean`: logit_c = -scale / 2 * |x - m_c|²

    In both, the logits span at most 2 * scale, whatever F is.
    """

    prototypes: Tensor
    """The class means, [classes, F]. They are zero before `fit`, so that all logits are equal."""

    def __init__(self, features: int, classes: int, metric: Literal["cosine", "euclidean"], scale: float) -> None:
        super().__init__()
        self.metric = metric
        self.scale = scale
        self.register_buffer("prototypes", torch.zeros(classes, features))

    def forward(self, features: Tensor) -> Tensor:
        """features[N, F] -> logits[N, classes]."""
        if self.metric == "cosine":
            return self.scale * cosines(features, self.prototypes)
        features, prototypes = _unit(features), _at_least_float32(self.prototypes)
        # |x - m|² expanded, which needs no [N, classes, F] tensor. All three terms are at most 2, so the difference
        # loses no precision.
        squared = features.square().sum(1, keepdim=True) + prototypes.square().sum(1) - 2 * features @ prototypes.T
        return -0.5 * self.scale * squared

    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Set `prototypes` from features[N, F] and targets[N]. Raises ValueError if a class has no features."""
        classes = len(self.prototypes)
        counts = torch.bincount(targets, minlength=classes).tolist()
        missing = [str(index) for index, count in enumerate(counts) if not count]
        if missing:
            raise ValueError(f"a class mean needs at least one feature: there is none for class {', '.join(missing)}")
        # In float64, so that after rounding the order of the images makes no difference. Class by class, because
        # that is deterministic on every device and index_add_ is not.
        means = [functional.normalize(features[targets == index].double(), dim=1).mean(0) for index in range(classes)]
        self.prototypes.copy_(torch.stack(means))


def cosines(features: Tensor, weights: Tensor) -> Tensor:
    """features[N, F], weights[classes, F] -> the cosine of each pair, [N, classes], computed in at least float32."""
    return _unit(features) @ _unit(weights).T


def _unit(vectors: Tensor) -> Tensor:
    # The lower bound of the norm only matters for zero vectors: it keeps their gradient finite.
    return functional.normalize(_at_least_float32(vectors), dim=1, eps=_MIN_NORM)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _class_weights(features: int, classes: int) -> nn.Parameter:
    # Rows have a length of about 1 for every F, so that an optimizer step turns them by about the same angle.
    return nn.Parameter(torch.empty(classes, features).normal_(std=features**-0.5))
