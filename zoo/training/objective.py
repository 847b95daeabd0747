"""What a stage minimises: the loss of its batches, with class weights, label smoothing, mixed images and L2-SP."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.evaluation.inference import to_device
from zoo.model.model import ZooModel
from zoo.specs.recipe import Stage


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of a batch, computed as a sum over its micro-batches."""

    settings: Stage
    class_weights: Tensor | None = None
    """weights[classes]: how much an image of each class counts. None: all classes count the same."""
    anchors: Mapping[str, Tensor] | None = None
    """Backbone parameters at the start of the run, by full name. L2-SP pulls towards them."""

    def micro_batch_loss(self, model: ZooModel, features: Tensor, targets: Tensor, batch_targets: Tensor) -> Tensor:
        """Return what one micro-batch adds to the mean loss of its batch, a scalar.

        The losses of all micro-batches add up to the mean loss of the whole batch, and so do their gradients. That is
        why each is divided by a number of the batch, not of the micro-batch.

        Args:
            model: Its head computes the logits, or its own loss.
            features: Of the micro-batch: pooled features[n, C] or maps[n, C, H, W], as the head needs.
            targets: Of the micro-batch: class indices[n], or class shares[n, classes] where images were mixed. A head
                with its own loss takes indices only.
            batch_targets: Class indices of the whole batch, [N].
        """
        if model.own_loss:
            return model.loss(features, targets) * (len(targets) / len(batch_targets))
        weights = None if self.class_weights is None else to_device(self.class_weights, features.device)
        total = nn.functional.cross_entropy(
            model.head(features),
            targets,
            weight=weights,
            label_smoothing=self.settings.label_smoothing,
            reduction="sum",
        )
        if weights is None or targets.is_floating_point():
            # For class shares, torch's mean divides by the number of images, whatever their classes weigh.
            return total / len(batch_targets)
        return total / weights[to_device(batch_targets, weights.device)].sum()

    def penalty(self, model: ZooModel) -> Tensor | None:
        """Return the L2-SP penalty (arXiv:1802.01483) on trained backbone parameters, a scalar.

        None where the stage has no penalty.
        """
        if not self.settings.l2_sp or self.anchors is None:
            return None
        squares = [
            (parameter - self.anchors[original].to(parameter.device)).square().sum()
            for name, parameter in model.named_parameters()
            # Adapters rename the layers that they are in. Anchors have the names from before.
            if parameter.requires_grad and (original := model.adapted.upstream(name)) in self.anchors
        ]
        return 0.5 * self.settings.l2_sp * torch.stack(squares).sum()


def objective_for(settings: Stage, targets: Tensor, classes: int, anchors: Mapping[str, Tensor] | None) -> Objective:
    """Return the objective of a stage, for training images with these class indices, targets[N]."""
    balanced = settings.class_weights == "balanced"
    return Objective(settings, balanced_weights(targets, classes) if balanced else None, anchors)


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """Return weights[classes] under which all classes count the same, given class indices targets[N].

    A class's weight is N / (classes * images of the class), as scikit-learn's; a class without images gets 0.
    """
    counts = torch.bincount(targets, minlength=classes).to(torch.float32)
    # `where` computes both sides, so not even the side that is not taken may divide by zero.
    return torch.where(counts > 0, len(targets) / (classes * counts.clamp(min=1)), counts)


def anchors_of(model: ZooModel) -> dict[str, Tensor]:
    """Return a copy of the backbone's parameters, by full name."""
    return {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if name.startswith("backbone.")
    }


def mixes(settings: Stage) -> bool:
    """Return whether a stage trains on mixed images."""
    return bool(settings.mixup or settings.cutmix)


def partners_of(count: int, key: str) -> list[int]:
    """Return with which image each of `count` images of a batch is mixed, by their places in it; `key` as in `mix`."""
    return _partners(random.Random(f"mix/{key}"), count)


def mix(
    images: Tensor,
    targets: Tensor,
    classes: int,
    settings: Stage,
    *,
    key: str,
    held: Sequence[int] | None = None,
    own: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix the images of a batch by mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899).

    Each image is mixed with its partner in a permutation of the batch, all with one parameter drawn from a beta
    distribution. Where both methods are on, a coin decides for each batch. At least one of them must be on.

    Args:
        images: images[N, 3, H, W].
        targets: Class indices[N]; with `held` and `own`, those of the whole batch.
        classes: How many classes there are.
        settings: Whose `mixup` and `cutmix` are the parameters of the beta distributions.
        key: Names seed, stage, epoch and step. It alone decides what is drawn, so a resumed run mixes the same images.
        held: The places in the batch of `images`, where these are not the whole batch.
        own: The places of those that are wanted; `held` has their partners, too.

    Returns:
        Mixed images[N, 3, H, W], and each image's class shares[N, classes]; with `own`, of these alone.
    """
    # Not torch's generator: its draws depend on what dropout drew before. The order of these draws is part of a run's
    # result, and `partners_of` repeats the first of them.
    generator = random.Random(f"mix/{key}")
    partner = _partners(generator, len(targets))
    places = range(len(targets)) if own is None else own
    at = {place: number for number, place in enumerate(range(len(targets)) if held is None else held)}
    partners = torch.tensor([at[partner[place]] for place in places], dtype=torch.int64)
    pastes = generator.random() < 0.5 if settings.mixup and settings.cutmix else bool(settings.cutmix)
    alpha = settings.cutmix if pastes else settings.mixup
    own_share = generator.betavariate(alpha, alpha)
    wanted = images if own is None else images[torch.tensor([at[place] for place in places], dtype=torch.int64)]
    if pastes:
        wanted, own_share = _paste(wanted, images[partners], own_share, generator)
    else:
        wanted = torch.lerp(images[partners], wanted, own_share)
    shares = nn.functional.one_hot(targets, classes).to(torch.float32)
    of_own = torch.tensor(list(places), dtype=torch.int64)
    of_partners = torch.tensor([partner[place] for place in places], dtype=torch.int64)
    return wanted, torch.lerp(shares[of_partners], shares[of_own], own_share)


def _partners(generator: random.Random, count: int) -> list[int]:
    return generator.sample(range(count), count)


def _paste(images: Tensor, partners: Tensor, own_share: float, generator: random.Random) -> tuple[Tensor, float]:
    """Paste one box of partners[N, 3, H, W] into images[N, 3, H, W] -> the images, the share of own pixels left.

    The box has 1 - own_share of the area, around a centre that may lie anywhere. What of it lies beyond the edge is
    lost, so the share is counted in pixels afterwards.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - own_share)
    top, bottom = _span(height, side, generator)
    left, right = _span(width, side, generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, share: float, generator: random.Random) -> tuple[int, int]:
    """Draw where a share of a side begins and ends, clipped at the edges."""
    centre, half = generator.randrange(length), length * share / 2
    return max(0, int(centre - half)), min(length, int(centre + half))
