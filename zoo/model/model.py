"""The classifier as one module: a backbone with groups that can be frozen, and a head.

What is frozen stays in evaluation mode, also after `.train()`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.data.image_preprocessing import ImagePreprocessing
from zoo.errors import PluginError
from zoo.model.cut import CannotCut, Cut, cut_before
from zoo.model.groups import AdaptedNames, Partition, partition
from zoo.model.layers import check_outputs, layer_means
from zoo.specs.backbone import Backbone, FeatureShape, GroupOutput
from zoo.specs.head import Needs
from zoo.specs.plan import Compute
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.recipe import BatchNorm
from zoo.specs.selectors import TensorKind

HEAD = "head"
"""The group of everything in the head, beside the backbone's own groups."""
Features = Callable[[nn.Module, Tensor], Tensor]
"""(backbone, images[N, 3, H, W]) -> what the head needs, in the backbone's precision: pooled features[N, F], the
map[N, C, H', W'], or features[N, L] of all layers."""
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ZooModel(nn.Module):
    """A backbone and a head: images[N, 3, H, W] -> logits[N, classes].

    State-dict keys are `head.*` and `backbone.*`, which is followed by the upstream library's own key. Full names of
    parameters, buffers and modules begin in the same way.
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
        linear: Callable[[nn.Module], nn.Linear] | None = None,
        layers: Sequence[GroupOutput] = (),
    ) -> None:
        """Put backbone and head together.

        Args:
            backbone: The built backbone. It must have a map where `needs` is `map`.
            head: Takes what `needs` says, and returns logits[N, classes].
            name: The backbone's full name, for messages.
            classes: Class names, in the order of the logits.
            preprocessing: What images go through before the backbone.
            needs: `pooled` for features[N, F], `map` for the map[N, C, H', W'], `layers` for features[N, L].
            loss: (head, features, targets[N]) -> the mean loss; None for cross-entropy.
            fit: (head, features, targets[N]): fits a closed-form head; None for a head that is trained by gradients.
            linear: head -> the one linear layer that it is in evaluation mode; None for a head that is more.
            layers: Where the groups' outputs are read, where `needs` is `layers`.

        Raises PluginError where the groups do not cover every parameter of the backbone exactly once.
        """
        super().__init__()
        self.backbone = backbone.module
        self.head = head
        self.name = name
        self.classes = classes
        self.preprocessing = ImagePreprocessing.of(preprocessing)
        """What images go through before the backbone; called with one, it gives the tensor[3, H, W]."""
        self.shape: FeatureShape = with_layers(backbone.shape, layers)
        self.groups: Partition = partition(backbone.module, backbone.groups, backbone=name)
        self.needs = needs
        check_outputs(backbone.module, layers)
        self.layers = tuple(layers)
        """Where the groups' outputs are read, from input to output, for a head that needs them; empty for others."""
        self.idle: frozenset[str] = frozenset()
        """Backbone parameters, by full name, that the logits do not depend on: they lie behind the map, or upstream
        does not use them either. They are always frozen."""
        self.adapted = AdaptedNames()
        """Translates names while low-rank adapters are in the backbone; see `zoo.model.adapters`."""
        self.compute = Compute()
        """Precision and memory layout of the backbone's passes; set by `compute_as`."""
        self._features = _features_for(backbone, needs, layers)
        self._pool = backbone.pool
        self._map = backbone.map
        self._checkpointing = backbone.checkpointing
        self._loss = loss
        self._fit = fit
        self._linear = linear
        self._frozen_modules: tuple[str, ...] = ()
        self._norms = frozenset(f"backbone.{name}" for name in _norm_tensors(backbone.module))
        self._batch_norms = frozenset(
            f"backbone.{name}" for name, module in backbone.module.named_modules() if isinstance(module, _BatchNorm)
        )
        self._biases = frozenset(f"backbone.{name}" for name in _bias_tensors(backbone.module))

    def features(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> what the head needs, in float32.

        This is pooled features[N, F], the map[N, C, H', W'], or features[N, L] of all layers.
        """
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            features = self._features(self.backbone, images)
        # Cached features are contiguous, and another layout in memory changes the last bits of the logits.
        return features.float().contiguous()

    def pooled(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> the backbone's pooled features[N, F] in float32, whatever the head needs."""
        if self.needs == "pooled":
            return self.features(images)
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            features = self._pool(self.backbone, images)
        return features.float().contiguous()

    def forward(self, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> logits[N, classes]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def cut_before(self, group: str) -> Cut:
        """Cut the backbone in two before one of its groups; the groups before it must not train. Raises CannotCut."""
        if self.needs == "layers":
            raise CannotCut("the head takes the outputs of the groups on both sides")
        return cut_before(group, self.backbone, self.groups, self._features, self.preprocessing.input_size)

    def outputs_before(self, cut: Cut, images: Tensor) -> Tensor:
        """images[N, 3, H, W] -> outputs at the cut, [N, ...], in the backbone's precision and layout."""
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            return cut.prefix(images)

    def features_after(self, cut: Cut, outputs: Tensor) -> Tensor:
        """Outputs at the cut, [N, ...] -> features of the same images, as `features` returns them."""
        with self._precision(outputs.device):
            features = cut.suffix(outputs)
        return features.float().contiguous()

    def map(self, images: Tensor) -> Tensor | None:
        """images[N, 3, H, W] -> the map[N, C, H', W'] in float32; None where the backbone has no map.

        The head may need something else.
        """
        if self._map is None:
            return None
        images = images.contiguous(memory_format=_LAYOUTS[self.compute.memory_format])
        with self._precision(images.device):
            features = self._map(self.backbone, images)
        return features.float().contiguous()

    def compute_as(self, compute: Compute) -> ZooModel:
        """Set precision and memory layout of the backbone's passes, and return the model.

        Weights, features, head and loss stay float32.
        """
        self.compute = compute
        self.backbone.to(memory_format=_LAYOUTS[compute.memory_format])
        return self

    def replace_features(self, by: Callable[[Features], Features]) -> None:
        """Replace the function that computes the features; `by` makes the new one from the present one."""
        self._features = by(self._features)

    @property
    def can_checkpoint(self) -> bool:
        """Whether the backbone offers gradient checkpointing."""
        return self._checkpointing is not None

    def checkpoint_gradients(self, on: bool) -> None:
        """Switch gradient checkpointing (arXiv:1604.06174) on or off; does nothing where the backbone has none.

        It saves memory by computing activations again in the backward pass instead of storing them.
        """
        if self._checkpointing is not None:
            self._checkpointing(self.backbone, on)

    def _precision(self, device: torch.device) -> AbstractContextManager[None]:
        if self.compute.precision == "float32":
            return nullcontext()  # autocast refuses the meta device, even switched off
        return torch.autocast(device.type, torch.bfloat16)

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `features()`, [N, ...], against class indices targets[N].

        It is the head's own loss, or cross-entropy in nats.
        """
        if self._loss is not None:
            return self._loss(self.head, features, targets)
        return nn.functional.cross_entropy(self.head(features), targets)

    @property
    def own_loss(self) -> bool:
        """Whether the head has a loss of its own."""
        return self._loss is not None

    @property
    def closed_form(self) -> bool:
        """Whether the head is fitted by `fit_head` instead of by gradients."""
        return self._fit is not None

    @property
    def linear_layer(self) -> nn.Linear | None:
        """The linear layer that the head is in evaluation mode; None where it is more, or brings its own loss."""
        return self._linear(self.head) if self._linear is not None and self._loss is None else None

    def fit_head(self, features: Tensor, targets: Tensor) -> None:
        """Fit a closed-form head to all `features`, [N, ...], and their class indices targets[N]."""
        assert self._fit is not None, "this head is trained by gradients"
        with torch.no_grad():
            self._fit(self.head, features, targets)

    def group_of(self, name: str) -> str:
        """Return the group of a parameter or buffer by its full name: one of the backbone's, or `head`."""
        if name.startswith("head."):
            return HEAD
        name = self.groups.first_name(name)
        layer = self.adapted.adapted_by(name)
        name = self.adapted.upstream(name) if layer is None else f"{layer}.weight"
        return self.groups.tensors[name.removeprefix("backbone.")]

    def active_groups(self) -> tuple[str, ...]:
        """Return the backbone's groups that the logits depend on, input to output."""
        # Where there are idle parameters, a norm alone does not count: of CaiT's last group nothing else is on the way
        # to the map.
        active = {
            self.group_of(f"backbone.{name}")
            for name, parameter in self.backbone.named_parameters()
            if f"backbone.{name}" not in self.idle and (parameter.ndim > 1 or not self.idle)
        }
        return tuple(name for name in self.groups.names if name in active)

    def kinds_of(self, name: str) -> frozenset[TensorKind]:
        """Return the kinds of a backbone parameter by full name: `adapters` alone, or any of `norm` and `bias`.

        Parameters of the head have no kind.
        """
        name = self.groups.first_name(name)
        if self.adapted.adapted_by(name):
            return frozenset(["adapters"])
        name = self.adapted.upstream(name)
        held: dict[TensorKind, frozenset[str]] = {"norm": self._norms, "bias": self._biases}
        return frozenset(kind for kind, names in held.items() if name in names)

    def trains(
        self,
        name: str,
        groups: Collection[str],
        tensors: Collection[TensorKind] = (),
        batch_norm: BatchNorm = "train",
    ) -> bool:
        """Whether a parameter or buffer, by full name, may change after `freeze_all_but` with the same arguments.

        Freezing and the watch over a stage both ask this one function.
        """
        name = self.groups.first_name(name)
        if self.adapted.upstream(name) in self.idle:
            return False
        if not self.kinds_of(name).isdisjoint(tensors):
            return True
        if batch_norm != "train" and name.rpartition(".")[0] in self._batch_norms:
            # Of a batch norm's tensors, those that are not its parameters are its running statistics.
            return batch_norm == "adapt" and name not in self._norms and self.group_of(name) in groups
        return self.group_of(name) in groups

    def stays_in_eval(self, name: str, groups: Collection[str], batch_norm: BatchNorm = "train") -> bool:
        """Whether a module, by full name, stays in evaluation mode after `freeze_all_but` with the same arguments."""
        name = self.adapted.adapted_by(name) or self.adapted.upstream(name)
        inside = name.removeprefix("backbone").removeprefix(".")
        held = frozenset([HEAD]) if name.split(".")[0] == HEAD else self.groups.modules[inside]
        stays = held.isdisjoint(groups) or (batch_norm == "frozen" and name in self._batch_norms)
        return stays and inside not in self.groups.modeless

    def has_batch_norms(self, groups: Collection[str]) -> bool:
        """Whether any of these groups of the backbone has a batch norm."""
        held = (self.groups.modules[name.removeprefix("backbone.")] for name in self._batch_norms)
        return any(not of.isdisjoint(groups) for of in held)

    def freeze_all_but(
        self, groups: Collection[str], tensors: Collection[TensorKind] = (), batch_norm: BatchNorm = "train"
    ) -> None:
        """Freeze everything else: no gradients, and evaluation mode also after `.train()`.

        Args:
            groups: Groups that train as a whole; `head` is one. Modules of all others stay in evaluation mode.
            tensors: Kinds of tensors that train in all other groups too.
            batch_norm: What the backbone's batch norms in `groups` do: `train`, or `frozen` or `adapt` as in
                `zoo.specs.recipe.Stage`.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.trains(name, groups, tensors, batch_norm))
            parameter.grad = None
        self._frozen_modules = tuple(
            name for name in self._module_names() if self.stays_in_eval(name, groups, batch_norm)
        )
        self.train(self.training)

    def forget_adapters(self) -> None:
        """Forget the names of modules that low-rank adapters brought with them; `adapters.remove` calls it."""
        self._frozen_modules = tuple(
            name
            for name in self._frozen_modules
            if not self.adapted.adapted_by(name) and self.adapted.upstream(name) == name
        )
        self.adapted = AdaptedNames()

    def frozen_modules(self) -> list[tuple[str, nn.Module]]:
        """Return every module that must be in evaluation mode, by full name."""
        return [(name, self.get_submodule(name)) for name in self._frozen_modules]

    def train(self, mode: bool = True) -> ZooModel:
        """Set the mode as torch does, except that frozen modules stay in evaluation mode."""
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
    """Yield the names of the parameters of normalisation layers.

    These are layers whose class has `norm` in its name, because timm alone has some twenty such classes, and whose
    parameters are scales and shifts only.
    """
    for name, layer in module.named_modules():
        own = list(layer.named_parameters(recurse=False))
        if "norm" in type(layer).__name__.lower() and all(parameter.ndim <= 1 for _, parameter in own):
            yield from (f"{name}.{parameter}" for parameter, _ in own)


def _bias_tensors(module: nn.Module) -> Iterator[str]:
    """Yield the names of the biases, those of norms included; some transformers call them `q_bias` and `v_bias`."""
    for name, parameter in module.named_parameters():
        last = name.rpartition(".")[2]
        if parameter.ndim == 1 and (last == "bias" or last.endswith("_bias")):
            yield name


def with_layers(shape: FeatureShape, layers: Sequence[GroupOutput]) -> FeatureShape:
    """The shape of the features with the widths of the groups' means, where there are some."""
    return replace(shape, layers=tuple(each.width for each in layers)) if layers else shape


def _features_for(backbone: Backbone, needs: Needs, layers: Sequence[GroupOutput]) -> Features:
    if needs == "pooled":
        return backbone.pool
    if needs == "layers":
        assert layers, "a backbone whose groups have no outputs was refused before"
        return layer_means(backbone.pool, layers)
    assert backbone.map is not None, "a backbone without a map was refused before"
    return backbone.map


def check_shapes(model: ZooModel) -> None:
    """Run two blank images through the model, and compare the shapes with what backbone and head declared.

    Raises PluginError, which names the one with another shape.
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
            f"The head returned logits of shape {list(logits.shape)} for 2 images and {len(model.classes)} classes; "
            f"it must return [2, {len(model.classes)}]."
        )
    model.train(was_training)


def _check_features(model: ZooModel, features: Tensor) -> None:
    shape = tuple(features.shape)
    if model.needs != "map":
        width = model.shape.pooled + sum(model.shape.layers or ())
        kind = "pooled features" if model.needs == "pooled" else "features of all layers"
        fits, declared = shape == (2, width), f"{kind}[N, {width}]"
    else:
        fits, declared = len(shape) == 4 and shape[:2] == (2, model.shape.map), f"a map[N, {model.shape.map}, H, W]"
    if not fits:
        raise PluginError(f"{model.name} declares {declared}, but returned {list(shape)} for 2 images.")
