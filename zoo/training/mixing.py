"""Batches of blended images: mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899)."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from zoo.recipes import Stage


def mixes(settings: Stage) -> bool:
    """Whether a stage mixes its images."""
    return bool(settings.mixup or settings.cutmix)


def mix(images: Tensor, targets: Tensor, classes: int, settings: Stage, *, key: str) -> tuple[Tensor, Tensor]:
    """images[N, 3, H, W], class indices targets[N] -> mixed images, shares of the classes targets[N, classes].

    Each image is mixed with its partner in a permutation of the batch, all by one parameter. `key` alone, which names
    seed, stage, epoch and step, decides what is drawn; one of `mixup` and `cutmix` must be on.
    """
    generator = random.Random(f"mix/{key}")
    partners = torch.tensor(generator.sample(range(len(images)), len(images)))
    pasted = generator.random() < 0.5 if settings.mixup and settings.cutmix else bool(settings.cutmix)
    alpha = settings.cutmix if pasted else settings.mixup
    kept = generator.betavariate(alpha, alpha)
    if pasted:
        images, kept = _paste(images, images[partners], kept, generator)
    else:
        images = torch.lerp(images[partners], images, kept)
    shares = nn.functional.one_hot(targets, classes).to(torch.float32)
    return images, torch.lerp(shares[partners], shares, kept)


def _paste(images: Tensor, others: Tensor, kept: float, generator: random.Random) -> tuple[Tensor, float]:
    """A box of the others in the images -> (images, the share of their own pixels that is left).

    The box takes 1 - kept of the area around a centre that lies anywhere, so its part beyond the edge is lost: the
    share is that of the pixels.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - kept)
    top, bottom = _span(height, side, generator)
    left, right = _span(width, side, generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, share: float, generator: random.Random) -> tuple[int, int]:
    """Where a share of a side begins and ends, clipped at the edges."""
    centre, half = generator.randrange(length), length * share / 2
    return max(0, int(centre - half)), min(length, int(centre + half))
