"""The classifier as one module: backbone, head, and what was frozen stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.compute import Compute
from zoo.errors import PluginError
from zoo.model.adapters import AdaptedNames
from zoo.model.allocator import keep_freed_memory
from zoo.model.cut import Cut, cut_before
from zoo.model.groups import Partition, partition
from zoo.preprocessing import Preprocessing
from zoo.recipes import BatchNorm
from zoo.selectors import TensorKind
from zoo.specs import Backbone, FeatureShape, Needs

HEAD = "head"
Features = Callable[[nn.Module, Tensor], Tensor]
"""(backbone, images[N, 3, H, W]) -> what the head needs, in whatever precision."""
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


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
        self.adapted = AdaptedNames()
        """What names mean while low-rank adapters are in the backbone; see `zoo.model.adapters`."""
        self.compute = Compute()
        self._features = _features(backbone, needs)
        self._map = backbone.map
        self._checkpointing = backbone.checkpointing
        self._loss = loss
        self._fit = fit
        self._frozen_modules: tuple[str, ...] = ()
        self._norms = frozenset(f"backbone.{name}" for name in _norm_tensors(backbone.module))
        self._batch_norms = frozenset(
            f"backbone.{name}" for name, each in backbone.module.named_modules() if isinstance(each, _BatchNorm)
        )
        self._biases = frozenset(f"backbone.{name}" for name in _bias_tensors(backbone.module))

    def features(self, images: Tensor) -> Tensor:
        """What the head needs, in float32: pooled features[N, F], or the map[N, C, H, W]."""
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            features = self._features(self.backbone, images)
        # One layout in memory, whether they come from the backbone or from those kept: another changes bits.
        return features.float().contiguous()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def cut_before(self, group: str) -> Cut:
        """The backbone in two, before one of its groups; no group before it may train. Raises CannotCut."""
        return cut_before(group, self.backbone, self.groups, self._features, self.preprocessing.input_size)

    def outputs_before(self, cut: Cut, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> what crosses the cut, [N, ...], as the backbone computes it: in its precision too."""
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            return cut.prefix(images)

    def features_after(self, cut: Cut, outputs: Tensor) -> Tensor:
        """What crosses the cut -> the same as `features` of its images."""
        with self._precision(outputs.device):
            features = cut.suffix(outputs)
        return features.float().contiguous()

    def map(self, images: Tensor) -> Tensor | None:
        """The map[N, C, H, W] in float32, whatever the head needs; None where the backbone has none."""
        if self._map is None:
            return None
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            found = self._map(self.backbone, images)
        return found.float().contiguous()

    def compute_as(self, compute: Compute) -> ZooModel:
        """Set precision and memory layout of the backbone's passes; weights stay float32, and so do the features."""
        keep_freed_memory()
        self.compute = compute
        self.backbone.to(memory_format=_LAYOUTS[compute.memory_format])
        return self

    def replace_features(self, by: Callable[[Features], Features]) -> None:
        """Compute what the head needs by another function, made from the one in use."""
        self._features = by(self._features)

    @property
    def can_checkpoint(self) -> bool:
        """Whether the backbone offers gradient checkpointing."""
        return self._checkpointing is not None

    def checkpoint_gradients(self, on: bool) -> None:
        """Compute activations again in the backward pass instead of keeping them, where the backbone offers it."""
        if self._checkpointing is not None:
            self._checkpointing(self.backbone, on)

    def _precision(self, device: torch.device) -> AbstractContextManager[None]:
        if self.compute.precision == "float32":
            return nullcontext()  # autocast refuses the meta device, even switched off
        return torch.autocast(device.type, torch.bfloat16)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `features()` against class indices targets[N]: the head's own, or cross-entropy."""
        if self._loss is not None:
            return self._loss(self.head, features, targets)
        return nn.functional.cross_entropy(self.head(features), targets)

    @property
    def own_loss(self) -> bool:
        """Whether the head brings its loss."""
        return self._loss is not None

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
        if name.startswith("head."):
            return HEAD
        layer = self.adapted.adapted_by(name)
        name = self.adapted.upstream(name) if layer is None else f"{layer}.weight"
        return self.groups.tensors[name.removeprefix("backbone.")]

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

    def kinds_of(self, name: str) -> frozenset[TensorKind]:
        """What a backbone parameter is: `adapters`, or `norm`, `bias`, both or neither; the head's are never asked for
        by kind."""
        if self.adapted.adapted_by(name):
            return frozenset(["adapters"])
        name = self.adapted.upstream(name)
        kinds: set[TensorKind] = set()
        if name in self._norms:
            kinds.add("norm")
        if name in self._biases:
            kinds.add("bias")
        return frozenset(kinds)

    def trains(
        self,
        name: str,
        groups: Collection[str],
        tensors: Collection[TensorKind] = (),
        batch_norm: BatchNorm = "train",
    ) -> bool:
        """Whether a parameter or buffer, by full name, may change where `freeze_all_but` was called like this."""
        if self.adapted.upstream(name) in self.idle:
            return False
        if not self.kinds_of(name).isdisjoint(tensors):
            return True
        if batch_norm != "train" and name.rpartition(".")[0] in self._batch_norms:
            # Statistics are all of a batch norm that is no parameter.
            return batch_norm == "adapt" and name not in self._norms and self.group_of(name) in groups
        return self.group_of(name) in groups

    def rests(self, name: str, groups: Collection[str], batch_norm: BatchNorm = "train") -> bool:
        """Whether a module, by full name, stays in evaluation mode there."""
        name = self.adapted.adapted_by(name) or self.adapted.upstream(name)
        inside = name.removeprefix("backbone").removeprefix(".")
        held = frozenset([HEAD]) if name.split(".")[0] == HEAD else self.groups.modules[inside]
        return held.isdisjoint(groups) or (batch_norm == "frozen" and name in self._batch_norms)

    def freeze_all_but(
        self, groups: Collection[str], tensors: Collection[TensorKind] = (), batch_norm: BatchNorm = "train"
    ) -> None:
        """Freeze all that is not named: no gradient, evaluation mode also after `.train()`.

        Args:
            groups: That train as a whole; `head` is one. Modules of all others stay in evaluation mode.
            tensors: Kinds that train in all other groups as well.
            batch_norm: Of the backbone's batch norms in `groups`; `frozen` and `adapt` as in `zoo.recipes.Stage`.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.trains(name, groups, tensors, batch_norm))
            parameter.grad = None
        self._frozen_modules = tuple(name for name in self._module_names() if self.rests(name, groups, batch_norm))
        self.train(self.training)

    def adapters_taken_out(self) -> None:
        """Forget the modules that were there with low-rank adapters alone."""
        self._frozen_modules = tuple(
            name
            for name in self._frozen_modules
            if not self.adapted.adapted_by(name) and self.adapted.upstream(name) == name
        )
        self.adapted = AdaptedNames()

    def frozen_modules(self) -> list[tuple[str, nn.Module]]:
        """Every module that must be in evaluation mode, by full name."""
        return [(name, self.get_submodule(name)) for name in self._frozen_modules]

    def train(self, mode: bool = True) -> ZooModel:
        """As usual, except that frozen modules stay in evaluation mode."""
        super().train(mode)
        for _, module in self.frozen_modules():
            module.training = False
        return self

    def _module_names(self) -> Iterator[str]:
        for name, _ in self.backbone.named_modules():
            yield f"backbone.{name}" if name else "backbone"
        for name, _ in self.head.named_modules():
            yield f"head.{name}" if name else "head"


def _norm_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the parameters of normalisation layers: every layer whose class has `Norm` in its name (timm has some
    twenty), and that holds nothing but scales and shifts."""
    for name, each in module.named_modules():
        own = list(each.named_parameters(recurse=False))
        if "norm" in type(each).__name__.lower() and all(parameter.ndim <= 1 for _, parameter in own):
            yield from (f"{name}.{parameter}" for parameter, _ in own)


def _bias_tensors(module: nn.Module) -> Iterator[str]:
    """Names of the biases, those of norms included; transformers also have them as `q_bias` and `v_bias`."""
    for name, parameter in module.named_parameters():
        last = name.rpartition(".")[2]
        if parameter.ndim == 1 and (last == "bias" or last.endswith("_bias")):
            yield name


def _features(backbone: Backbone, needs: Needs) -> Features:
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
