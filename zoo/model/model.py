"""The classifier as one module: backbone, head, and what was frozen stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from zoo.model.groups import Partition, partition
from zoo.preprocessing import Preprocessing
from zoo.specs import Backbone, FeatureShape

HEAD = "head"


class ZooModel(nn.Module):
    """`images[N, 3, H, W]` -> `logits[N, classes]`.

    State-dict keys are `backbone.*` (the upstream library's own) and `head.*`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        *,
        name: str,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Raises PluginError where the backbone's groups are no exact partition."""
        super().__init__()
        self.backbone = backbone.module
        self.head = head
        self.name = name
        self.classes = classes
        self.preprocessing = preprocessing
        self.shape: FeatureShape = backbone.shape
        self.groups: Partition = partition(backbone.module, backbone.groups, backbone=name)
        self._pool = backbone.pool
        self._loss = loss
        self._frozen_modules: tuple[str, ...] = ()

    def features(self, images: Tensor) -> Tensor:
        """Pooled features[N, F]."""
        return self._pool(self.backbone, images)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of features[N, F] against class indices targets[N]: the head's own, or cross-entropy."""
        if self._loss is not None:
            return self._loss(self.head, features, targets)
        return nn.functional.cross_entropy(self.head(features), targets)

    def group_of(self, name: str) -> str:
        """The group of a parameter or buffer by its full name; `head` for the head's."""
        return HEAD if name.startswith("head.") else self.groups.tensors[name.removeprefix("backbone.")]

    def freeze_all_but(self, groups: Collection[str]) -> None:
        """Freeze every group that is not named (`head` is one): no gradient, evaluation mode also after `.train()`."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.group_of(name) in groups)
            parameter.grad = None
        self._frozen_modules = tuple(name for name, held in self._module_groups() if not held & set(groups))
        self.train(self.training)

    def frozen_modules(self) -> list[tuple[str, nn.Module]]:
        """Every module that must be in evaluation mode, by full name."""
        return [(name, self.get_submodule(name)) for name in self._frozen_modules]

    def train(self, mode: bool = True) -> ZooModel:
        """As usual, except that frozen modules stay in evaluation mode."""
        super().train(mode)
        for _, module in self.frozen_modules():
            module.training = False
        return self

    def _module_groups(self) -> Iterator[tuple[str, frozenset[str]]]:
        for name, held in self.groups.modules.items():
            yield f"backbone.{name}" if name else "backbone", held
        for name, _ in self.head.named_modules():
            yield f"head.{name}" if name else "head", frozenset([HEAD])


def check_shapes(model: ZooModel) -> None:
    """Run one blank image through the model and compare the shapes with what backbone and head promised.

    Raises PluginError naming the one that broke its promise.
    """
    from zoo.errors import PluginError

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        features = model.features(torch.zeros(2, *model.preprocessing.input_size, device=device))
        if tuple(features.shape) != (2, model.shape.pooled):
            raise PluginError(
                f"{model.name} promised pooled features[N, {model.shape.pooled}] and returned {list(features.shape)} "
                "for 2 images."
            )
        logits = model.head(features)
    if tuple(logits.shape) != (2, len(model.classes)):
        raise PluginError(
            f"The head returned {list(logits.shape)} for 2 images and {len(model.classes)} classes; "
            f"it must return [2, {len(model.classes)}]."
        )
    model.train(was_training)
