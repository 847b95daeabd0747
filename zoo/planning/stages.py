"""What each stage of a recipe trains on this model, at which rates, for how many steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from zoo.errors import OptionError, RecipeError
from zoo.model.model import HEAD, ZooModel
from zoo.planning.batches import batch_sizes
from zoo.planning.plan import StagePlan
from zoo.planning.request import CLOSED_FORM_RECIPE
from zoo.recipes import RecipeSpec, Selection, Stage, select
from zoo.registry import ResolvedBackbone

FEATURE_BUDGET = 4 << 30
"""Bytes of maps kept in memory; with more, a head stage runs the frozen backbone again in every epoch."""


_KINDS = {"norm": "normalisation layers with parameters", "bias": "biases"}


def select_groups(
    recipe: RecipeSpec, source: str, outline: ZooModel, backbone: ResolvedBackbone
) -> tuple[Selection, ...]:
    """What each stage's selectors mean for this model. Raises RecipeError with every fault, OptionError."""
    faults: list[str] = []
    selections = []
    for index, stage in enumerate(recipe.stages):
        selection, found = select(stage, outline.active_groups(), path=f"stages[{index}]")
        faults += found or _impossible(stage, selection, outline, f"stages[{index}]")
        if selection.backbone and outline.closed_form:
            raise OptionError(
                f"The recipe {source} trains the backbone in its stage {stage.name!r}, and this head is fitted in "
                f"closed form on a frozen one.\nNext: --recipe {CLOSED_FORM_RECIPE}, or a head that is trained, such "
                "as --head linear."
            )
        selections.append(selection)
    if faults:
        raise RecipeError(f"{source} for {backbone.qualified}", faults)
    return tuple(selections)


def _impossible(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    faults = [
        f"{path}.train: {kind!r} matches nothing, this backbone has no {_KINDS[kind]}"
        for kind in selection.tensors
        if not any(outline.trains(name, (), (kind,)) for name, _ in outline.named_parameters())
    ]
    faults += _without_effect(stage, selection, outline, path)
    if not selection.backbone and stage.augment != "none":
        faults.append(
            f"{path}.augment: {stage.augment!r} would do nothing, the head alone trains on features computed once"
        )
    if stage.batch_size == 1 and any(norm.training for norm in _batch_norms(outline, stage, selection)):
        faults.append(f"{path}.batch_size: 1 image is no batch for the batch norms that this stage trains")
    return faults


def _without_effect(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    """Knobs that are turned and would do nothing."""
    faults = []
    for key, usual in (("label_smoothing", 0), ("class_weights", "none")):
        if outline.own_loss and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this head brings its own loss")
    for key, usual in (("l2_sp", 0), ("batch_norm", "train"), ("layer_decay", 1)):
        if not selection.backbone and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this stage leaves the backbone alone")
    return faults


def _trains(selection: Selection) -> list[str]:
    return [*selection.groups, *([HEAD] if selection.head else [])]


def _batch_norms(outline: ZooModel, stage: Stage, selection: Selection) -> list[nn.Module]:
    """Every batch norm, in the mode that it has while this trains."""
    outline.freeze_all_but(_trains(selection), selection.tensors, stage.batch_norm)
    outline.train()
    return [each for each in outline.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def plan_stage(
    stage: Stage, selection: Selection, outline: ZooModel, *, train: int, val: int, feature_shape: tuple[int, ...]
) -> StagePlan:
    """One stage for so many training and validation images; `feature_shape` is that of one image's features."""
    trains = _trains(selection)
    norms = _batch_norms(outline, stage, selection)
    trained = {name: each for name, each in outline.named_parameters() if each.requires_grad}
    moving = [name for name in [*outline.groups.names, HEAD] if name in {outline.group_of(each) for each in trained}]
    trainable = count_parameters(trained.values())
    steps = stage.epochs * len(batch_sizes(train, stage.batch_size))
    reuse = outline.closed_form or (not selection.backbone and _fits_in_memory(feature_shape, train + val))
    return StagePlan(
        settings=stage,
        trains=tuple(trains),
        tensors=selection.tensors,
        freezes=tuple(name for name in [*outline.groups.names, HEAD] if name not in (*trains, *moving)),
        trainable_parameters=trainable,
        frozen_parameters=count_parameters(outline.parameters()) - trainable,
        decayed_parameters=count_parameters(each for each in trained.values() if decays(each, stage)),
        rates={} if outline.closed_form else group_rates(stage, outline.active_groups(), moving),
        steps=0 if outline.closed_form else steps,
        inputs="features" if reuse else "images",
        batch_norms_frozen=sum(not norm.training for norm in norms),
        batch_norms_training=sum(norm.training for norm in norms),
    )


def _fits_in_memory(shape: tuple[int, ...], images: int) -> bool:
    """Pooled features always do; maps are some hundred times larger."""
    return len(shape) == 1 or 4 * math.prod(shape) * images <= FEATURE_BUDGET


def group_rates(stage: Stage, groups: Sequence[str], trains: Sequence[str]) -> dict[str, float]:
    """Peak learning rate of every group that trains: the head and the last group have `lr`, each earlier one
    `layer_decay` times its successor's. Distance counts all groups, frozen ones included."""
    rates = {}
    for name in trains:
        distance = len(groups) - 1 - groups.index(name) if name in groups else 0
        rates[name] = stage.lr * stage.layer_decay**distance
    return rates


def decays(parameter: Tensor, stage: Stage) -> bool:
    """Whether weight decay acts on it: scales, shifts and biases, tensors of one dimension, are spared by default."""
    return stage.weight_decay > 0 and (stage.decay_all or parameter.ndim > 1)


def count_parameters(parameters: Iterable[Tensor]) -> int:
    """How many numbers they hold."""
    return sum(each.numel() for each in parameters)
