"""What a stage minimises: the head's loss or cross-entropy, weighted, smoothed, and pulled towards the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.model.model import ZooModel
from zoo.recipes import Stage


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of a batch, as a sum over the parts in which memory lets it go through."""

    settings: Stage
    class_weights: Tensor | None = None
    """weights[classes]: an image counts as much as its class's weight; None: all alike."""
    anchors: Mapping[str, Tensor] | None = None
    """Backbone parameters where the run started, by full name, for `l2_sp`."""

    def part(self, model: ZooModel, features: Tensor, targets: Tensor, batch_targets: Tensor) -> Tensor:
        """What a part, features and targets[n], adds to the mean loss of the batch, batch_targets[N].

        Targets are class indices, or, where images were mixed, shares of the classes: targets[n, classes] and
        batch_targets[N, classes]. The head's own loss takes indices alone.
        """
        if model.own_loss:
            return model.loss(features, targets) * (len(targets) / len(batch_targets))
        weights = None if self.class_weights is None else self.class_weights.to(features.device)
        total = nn.functional.cross_entropy(
            model.head(features),
            targets,
            weight=weights,
            label_smoothing=self.settings.label_smoothing,
            reduction="sum",
        )
        if weights is None or batch_targets.is_floating_point():
            # torch's mean over targets that are shares is one over images, whatever their classes weigh.
            return total / len(batch_targets)
        return total / weights[batch_targets.to(weights.device)].sum()

    def pull(self, model: ZooModel) -> Tensor | None:
        """The penalty on trained backbone parameters; None where the stage has none."""
        if not self.settings.l2_sp or self.anchors is None:
            return None
        squares = [
            (parameter - self.anchors[original].to(parameter.device)).square().sum()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (original := model.adapted.upstream(name)) in self.anchors
        ]
        return 0.5 * self.settings.l2_sp * torch.stack(squares).sum()


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """weights[classes]: images / (classes * images of the class); a class without images gets 0."""
    counts = torch.bincount(targets, minlength=classes).to(torch.float32)
    return torch.where(counts > 0, len(targets) / (classes * counts.clamp(min=1)), counts)


def anchors_of(model: ZooModel) -> dict[str, Tensor]:
    """A copy of the backbone's parameters, by full name."""
    return {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if name.startswith("backbone.")
    }
