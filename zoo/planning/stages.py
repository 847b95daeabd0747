"""What each stage of a recipe trains on this model, at which rates, for how many steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from zoo.errors import OptionError, RecipeError
from zoo.model.adaptable import adaptable_layers
from zoo.model.adapters import adapted, refuse_without_peft
from zoo.model.model import HEAD, ZooModel
from zoo.planning.batches import batch_sizes
from zoo.planning.plan import StagePlan
from zoo.planning.request import CLOSED_FORM_RECIPE
from zoo.planning.reuse import Amount, before_what_trains, features_alone
from zoo.recipes import RecipeSpec, Stage
from zoo.registry import ResolvedBackbone
from zoo.selectors import Selection, TensorKind, select

_KINDS = {
    "norm": "normalisation layers with parameters",
    "bias": "biases",
    "adapters": "linear layers or ordinary convolutions outside the groups that train as a whole",
}


def select_groups(
    recipe: RecipeSpec, source: str, outline: ZooModel, backbone: ResolvedBackbone
) -> tuple[Selection, ...]:
    """What each stage's selectors mean for this model. Raises RecipeError with every fault, OptionError."""
    faults: list[str] = []
    selections = []
    for index, stage in enumerate(recipe.stages):
        selection, found = select(stage.train, outline.active_groups(), path=f"stages[{index}]")
        if "adapters" in selection.tensors and not found:
            refuse_without_peft(source, stage.name)
            selection = replace(selection, adapters=_layers(stage, selection, outline))
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


def _layers(stage: Stage, selection: Selection, outline: ZooModel) -> tuple[str, ...]:
    """Where adapters go: not into groups that train as a whole, which need none."""
    groups = [name for name in outline.active_groups() if name not in selection.groups]
    return adaptable_layers(outline, groups, rank=stage.adapter_rank)


def _impossible(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    faults = [
        f"{path}.train: {kind!r} matches nothing, this backbone has no {_KINDS[kind]}"
        for kind in selection.tensors
        if not (selection.adapters if kind == "adapters" else _has(outline, kind))
    ]
    faults += _without_effect(stage, selection, outline, path)
    if stage.lr == "auto" and selection.backbone:
        faults.append(f"{path}.lr: 'auto' tries rates on features computed once, and this stage trains the backbone")
    if stage.batch_size == 1 and any(norm.training for norm in _batch_norms(outline, stage, selection)):
        faults.append(f"{path}.batch_size: 1 image is no batch for the batch norms that this stage trains")
    return faults


def _has(outline: ZooModel, kind: TensorKind) -> bool:
    return any(outline.trains(name, (), (kind,)) for name, _ in outline.named_parameters())


def _without_effect(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    """Knobs that are turned and would do nothing."""
    faults = []
    for key, usual in (("label_smoothing", 0), ("class_weights", "none")):
        if outline.own_loss and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this head brings its own loss")
    of_backbone = (
        ("l2_sp", 0),
        ("batch_norm", "train"),
        ("layer_decay", 1),
        ("gradient_checkpointing", False),
        ("prefix", "auto"),
    )
    for key, usual in of_backbone:
        if not selection.backbone and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this stage leaves the backbone alone")
    if stage.batch_norm != "train" and selection.backbone and not selection.groups:
        faults.append(
            f"{path}.batch_norm: would do nothing, it is about groups that train as a whole, and this stage trains none"
        )
    if stage.gradient_checkpointing and selection.backbone and not outline.can_checkpoint:
        faults.append(f"{path}.gradient_checkpointing: would do nothing, {outline.name} offers none")
    if stage.l2_sp and selection.backbone and not selection.groups and set(selection.tensors) == {"adapters"}:
        faults.append(f"{path}.l2_sp: would do nothing, adapters begin at nothing and all other weights stay")
    for key in ("adapter_rank", "adapter_alpha"):
        if "adapters" not in selection.tensors and getattr(stage, key) != Stage.model_fields[key].default:
            faults.append(f"{path}.{key}: would do nothing, this stage trains no adapters; add 'adapters' to train")
    faults += _without_mixing(stage, selection, outline, path)
    faults += _without_sampling(stage, outline, path)
    faults += _without_views(stage, selection, outline, path)
    return faults


def _without_views(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    first = outline.groups.names[0]
    if stage.views and (selection.tensors or first in selection.groups):
        return [
            f"{path}.views: would only show fewer crops, this stage trains {first}, the first group, so that nothing "
            "can be computed once"
        ]
    if stage.views and stage.augment == "none":
        return [f"{path}.views: would do nothing without augment, every view would be the image as it is; set augment"]
    if stage.augment != "none" and not (stage.views or selection.backbone):
        return [
            f"{path}.augment: {stage.augment!r} would do nothing, the head alone trains on features computed once; set "
            "views, how many augmented views of each image to compute features of"
        ]
    return []


def _without_mixing(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    faults = []
    for key in ("mixup", "cutmix"):
        if reason := _cannot_mix(stage, selection, outline) if getattr(stage, key) else None:
            faults.append(f"{path}.{key}: would do nothing, {reason}")
    return faults


def _without_sampling(stage: Stage, outline: ZooModel, path: str) -> list[str]:
    faults = []
    if stage.sampling != "shuffled" and outline.closed_form:
        faults.append(f"{path}.sampling: would do nothing, this head is fitted in closed form on every image once")
    if stage.sampling == stage.class_weights == "balanced":
        faults.append(
            f"{path}.sampling: 'balanced' already gives every class the same say, with class_weights 'balanced' rare "
            "ones would count twice; leave one of the two out"
        )
    return faults


def _cannot_mix(stage: Stage, selection: Selection, outline: ZooModel) -> str | None:
    if outline.closed_form:
        return "this head is fitted in closed form on the images as they are"
    if outline.own_loss:
        return "this head brings its own loss, which takes one class per image"
    if not selection.backbone:
        return "the head alone trains on features computed once, and images are what is mixed"
    if stage.batch_size == 1:
        return "a batch of 1 image has no other to mix it with"
    return None


def _trains(selection: Selection) -> list[str]:
    return [*selection.groups, *([HEAD] if selection.head else [])]


def _batch_norms(outline: ZooModel, stage: Stage, selection: Selection) -> list[nn.Module]:
    """Every batch norm, in the mode that it has while this trains."""
    outline.freeze_all_but(_trains(selection), selection.tensors, stage.batch_norm)
    outline.train()
    return [each for each in outline.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def plan_stage(
    stage: Stage,
    selection: Selection,
    outline: ZooModel,
    *,
    train: int,
    val: int,
    feature_shape: tuple[int, ...],
    device: str,
) -> StagePlan:
    """One stage for so many training and validation images; `feature_shape` is that of one image's features."""
    trains = _trains(selection)
    with adapted(outline, selection.adapters, rank=stage.adapter_rank, alpha=stage.adapter_alpha):
        norms = _batch_norms(outline, stage, selection)
        trained = {name: each for name, each in outline.named_parameters() if each.requires_grad}
        groups = {outline.group_of(name) for name in trained}
        every = count_parameters(outline.parameters())
    moving = [name for name in [*outline.groups.names, HEAD] if name in groups]
    trainable = count_parameters(trained.values())
    steps = stage.epochs * len(batch_sizes(train, stage.batch_size * stage.accumulate))
    # More views than epochs would never be looked at; a closed form is fitted to all of them at once.
    views = stage.views if outline.closed_form else min(stage.views, stage.epochs)
    amount = Amount(train=train, val=val, views=views, epochs=stage.epochs)
    if selection.backbone:
        reuse = before_what_trains(stage, outline, moving, amount, device)
    else:
        reuse = features_alone(outline, feature_shape, amount)
    return StagePlan(
        settings=stage,
        trains=tuple(trains),
        tensors=selection.tensors,
        adapters=selection.adapters,
        freezes=tuple(name for name in [*outline.groups.names, HEAD] if name not in (*trains, *moving)),
        trainable_parameters=trainable,
        frozen_parameters=every - trainable,
        decayed_parameters=count_parameters(each for each in trained.values() if decays(each, stage)),
        rates={} if outline.closed_form else group_rates(stage, outline.active_groups(), moving),
        steps=0 if outline.closed_form else steps,
        inputs=reuse.inputs,
        cut=reuse.cut,
        kept_bytes=reuse.bytes,
        why=reuse.why,
        batch_norms_frozen=sum(not norm.training for norm in norms),
        batch_norms_training=sum(norm.training for norm in norms),
        views=views,
    )


def group_rates(stage: Stage, groups: Sequence[str], trains: Sequence[str]) -> dict[str, float]:
    """Peak learning rate of every group that trains: the head and the last group have `lr`, each earlier one
    `layer_decay` times its successor's; none where the rate is still to be found. Distance counts all groups,
    frozen ones included."""
    if stage.lr == "auto":
        return {}
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
