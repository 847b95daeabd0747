"""The classifier as one module: backbone, head, and what was frozen stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from zoo.errors import PluginError
from zoo.model.groups import Partition, partition
from zoo.preprocessing import Preprocessing
from zoo.specs import Backbone, FeatureShape, Needs

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
        needs: Needs = "pooled",
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
        fit: Callable[[nn.Module, Tensor, Tensor], None] | None = None,
    ) -> None:
        """Raises PluginError where the backbone's groups are no exact partition; a map that is needed must be there."""
        super().__init__()
        self.backbone = backbone.module
        self.head = head
        self.name = name
        self.classes = classes
        self.preprocessing = preprocessing
        self.shape: FeatureShape = backbone.shape
        self.groups: Partition = partition(backbone.module, backbone.groups, backbone=name)
        self.needs = needs
        self.idle: frozenset[str] = frozenset()
        """Backbone parameters, by full name, that the logits do not depend on: behind the map, or never used by
        upstream either. They are frozen whatever trains."""
        self._features = _features(backbone, needs)
        self._loss = loss
        self._fit = fit
        self._frozen_modules: tuple[str, ...] = ()

    def features(self, images: Tensor) -> Tensor:
        """What the head needs: pooled features[N, F], or the map[N, C, H, W]."""
        # One layout in memory, whether they come from the backbone or from those kept: another changes bits.
        return self._features(self.backbone, images).contiguous()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `features()` against class indices targets[N]: the head's own, or cross-entropy."""
        if self._loss is not None:
            return self._loss(self.head, features, targets)
        return nn.functional.cross_entropy(self.head(features), targets)

    @property
    def closed_form(self) -> bool:
        """Whether the head is fitted by `fit_head` instead of by gradients."""
        return self._fit is not None

    def fit_head(self, features: Tensor, targets: Tensor) -> None:
        """Fit a closed-form head to the features of all training images and their class indices targets[N]."""
        assert self._fit is not None, "this head is trained by gradients"
        with torch.no_grad():
            self._fit(self.head, features, targets)

    def group_of(self, name: str) -> str:
        """The group of a parameter or buffer by its full name; `head` for the head's."""
        return HEAD if name.startswith("head.") else self.groups.tensors[name.removeprefix("backbone.")]

    def active_groups(self) -> tuple[str, ...]:
        """The backbone's groups that take part in the logits, input to output.

        A norm alone does not count: behind the map of CaiT it is all that is left of the last group.
        """
        taking_part = {
            self.group_of(f"backbone.{name}")
            for name, parameter in self.backbone.named_parameters()
            if f"backbone.{name}" not in self.idle and (parameter.ndim > 1 or not self.idle)
        }
        return tuple(name for name in self.groups.names if name in taking_part)

    def freeze_all_but(self, groups: Collection[str]) -> None:
        """Freeze every group that is not named (`head` is one): no gradient, evaluation mode also after `.train()`."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.group_of(name) in groups and name not in self.idle)
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


def _features(backbone: Backbone, needs: Needs) -> Callable[[nn.Module, Tensor], Tensor]:
    if needs == "pooled":
        return backbone.pool
    assert backbone.map is not None, "the pair was refused before"
    return backbone.map


def check_shapes(model: ZooModel) -> None:
    """Run two blank images through the model and compare the shapes with what backbone and head promised.

    Raises PluginError naming the one that broke its promise.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        features = model.features(torch.zeros(2, *model.preprocessing.input_size, device=device))
        _check_features(model, features)
        logits = model.head(features)
    if tuple(logits.shape) != (2, len(model.classes)):
        raise PluginError(
            f"The head returned {list(logits.shape)} for 2 images and {len(model.classes)} classes; "
            f"it must return [2, {len(model.classes)}]."
        )
    model.train(was_training)


def _check_features(model: ZooModel, features: Tensor) -> None:
    shape = tuple(features.shape)
    if model.needs == "pooled":
        fits, promised = shape == (2, model.shape.pooled), f"pooled features[N, {model.shape.pooled}]"
    else:
        fits, promised = len(shape) == 4 and shape[:2] == (2, model.shape.map), f"a map[N, {model.shape.map}, H, W]"
    if not fits:
        raise PluginError(f"{model.name} promised {promised} and returned {list(shape)} for 2 images.")
