"""What each stage of a recipe trains on this model, at which rates, for how many steps.

It is decided on the model's outline, so without weights. `zoo.training.stages` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from zoo.errors import OptionError, RecipeError
from zoo.frozen.decision import Amount, decide_for_backbone, decide_for_head, window_of
from zoo.frozen.room import refuse_without_memory
from zoo.model.adapters import adaptable_layers, adapted, require_peft
from zoo.model.model import HEAD, ZooModel
from zoo.planning.batch_norm import Evidence, decide_batch_norm
from zoo.planning.batch_sizes import batch_sizes
from zoo.planning.request import CLOSED_FORM_RECIPE
from zoo.planning.solver import choose_solver, solver_faults
from zoo.registry.names import ResolvedBackbone
from zoo.specs.plan import Precision, StagePlan
from zoo.specs.recipe import BALANCED, BatchNorm, RecipeSpec, Stage
from zoo.specs.selectors import Selection, TensorKind, select

_KINDS = {
    "norm": "normalisation layers with parameters",
    "bias": "biases",
    "adapters": "linear layers or ordinary convolutions outside the groups that train as a whole",
}


def select_groups(
    recipe: RecipeSpec, source: str, outline: ZooModel, backbone: ResolvedBackbone
) -> tuple[Selection, ...]:
    """What each stage's selectors mean for this model.

    Raises:
        RecipeError: With every fault of every stage.
        OptionError: A stage trains the backbone, and the head is fitted in closed form.
    """
    faults: list[str] = []
    selections: list[Selection] = []
    for index, stage in enumerate(recipe.stages):
        selection, found = select(stage.train, outline.active_groups(), path=f"stages[{index}]")
        if "adapters" in selection.tensors and not found:
            require_peft(source, stage.name)
            selection = replace(selection, adapters=_layers(stage, selection, outline))
        # Selectors that mean nothing leave a selection with gaps, whose further faults would mislead.
        faults += found or _impossible(stage, selection, outline, f"stages[{index}]")
        faults += _without_abandoning(stage, index, recipe, outline)
        faults += _without_blends(recipe, index, selections, outline)
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
    """The layers that get adapters. Groups that train as a whole need none."""
    groups = [name for name in outline.active_groups() if name not in selection.groups]
    return adaptable_layers(outline, groups, rank=stage.adapter_rank)


def _impossible(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    faults = [
        f"{path}.train: {kind!r} matches nothing, this backbone has no {_KINDS[kind]}"
        for kind in selection.tensors
        if not (selection.adapters if kind == "adapters" else _has(outline, kind))
    ]
    faults += _without_effect(stage, selection, outline, path)
    faults += solver_faults(stage, selection, outline, path)
    if stage.lr == "auto" and selection.backbone:
        faults.append(f"{path}.lr: 'auto' tries rates on features computed once, and this stage trains the backbone")
    if stage.gradient_checkpointing and selection.backbone and outline.needs == "layers":
        faults.append(
            f"{path}.gradient_checkpointing: does not compute as a whole some of the outputs that this head takes; "
            "leave it out, or take another head"
        )
    # `auto` becomes `frozen` for such batches. A head may have batch norms as well, and they train.
    policy = "frozen" if stage.batch_norm == "auto" else stage.batch_norm
    if stage.batch_size == 1 and any(norm.training for norm in _batch_norms(outline, policy, selection)):
        faults.append(f"{path}.batch_size: batch norm cannot train on 1 image, and this stage trains batch norms")
    return faults


def _has(outline: ZooModel, kind: TensorKind) -> bool:
    return any(outline.trains(name, (), (kind,)) for name, _ in outline.named_parameters())


def _without_effect(stage: Stage, selection: Selection, outline: ZooModel, path: str) -> list[str]:
    """Knobs that are set and would have no effect. They are refused: the user meant something by them."""
    faults = []
    for key, usual in (("label_smoothing", 0), ("class_weights", "none")):
        if outline.own_loss and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this head brings its own loss")
    of_backbone = (
        ("l2_sp", 0),
        ("layer_decay", 1),
        ("gradient_checkpointing", False),
        ("prefix", "auto"),
    )
    for key, usual in of_backbone:
        if not selection.backbone and getattr(stage, key) != usual:
            faults.append(f"{path}.{key}: would do nothing, this stage leaves the backbone alone")
    # `train` is what recipe files say that were written with every default when it was the default.
    if stage.batch_norm not in ("auto", "train") and not selection.groups:
        reason = "it is about groups that train as a whole, and this stage trains none"
        faults.append(
            f"{path}.batch_norm: would do nothing, "
            + (reason if selection.backbone else "this stage leaves the backbone alone")
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


def _without_blends(recipe: RecipeSpec, index: int, before: Sequence[Selection], outline: ZooModel) -> list[str]:
    """Blends that would do nothing; `before`: what the stages before this one train."""
    if not recipe.stages[index].blend:
        return []
    path = f"stages[{index}].blend"
    if recipe.keep == "last":
        return [
            f"{path}: would do nothing, the run ends with its last stage as it is; set keep to 'best', or leave it out"
        ]
    if outline.closed_form:
        return [f"{path}: would do nothing, this head is fitted in closed form, not in steps; leave it out"]
    if not any(selection.head and not selection.backbone for selection in before):
        return [
            f"{path}: there is nothing to blend with, no stage before this one trains the head alone; put one there, "
            'with train = ["head"], or leave it out'
        ]
    return []


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


def _without_abandoning(stage: Stage, index: int, recipe: RecipeSpec, outline: ZooModel) -> list[str]:
    path = f"stages[{index}].abandon"
    if not stage.abandon:
        return []
    if recipe.choose_by in BALANCED:
        return [
            f"{path}: a stage is given up by a loss in which large classes count more than with choose_by "
            f"{recipe.choose_by!r}; leave one of the two out"
        ]
    if recipe.keep == "last":
        return [f"{path}: with keep 'last' the run ends with its last stage, however good; leave one of the two out"]
    if index == 0:
        return [f"{path}: would do nothing, there is no stage before the first that could be better; leave it out"]
    if outline.closed_form:
        return [f"{path}: would do nothing, this head is fitted in one pass, which has no epochs"]
    return []


def _trains(selection: Selection) -> list[str]:
    return [*selection.groups, *([HEAD] if selection.head else [])]


def _batch_norms(outline: ZooModel, policy: BatchNorm, selection: Selection) -> list[nn.Module]:
    """Every batch norm, in the mode that it has while the selection trains."""
    # It stays so in the outline, which is no model of a run: every question about a stage begins by freezing anew.
    outline.freeze_all_but(_trains(selection), selection.tensors, policy)
    outline.train()
    return [module for module in outline.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What a stage trains and what it leaves, counted on the outline."""

    moving: list[str]
    """Groups of which something trains, from input to output, and `head`."""
    trainable: int
    frozen: int
    decayed: int
    """Trainable ones that weight decay acts on."""
    norms: list[bool]
    """Of every batch norm, whether it is in training mode."""


def _parameters(stage: Stage, selection: Selection, outline: ZooModel, policy: BatchNorm) -> _Parameters:
    # The outline is shared by all stages: this one's adapters are in it only while they are counted.
    with adapted(outline, selection.adapters, rank=stage.adapter_rank, alpha=stage.adapter_alpha):
        norms = _batch_norms(outline, policy, selection)
        trained = {name: tensor for name, tensor in outline.named_parameters() if tensor.requires_grad}
        groups = {outline.group_of(name) for name in trained}
        every = count_parameters(outline.parameters())
    trainable = count_parameters(trained.values())
    return _Parameters(
        moving=[name for name in [*outline.groups.names, HEAD] if name in groups],
        trainable=trainable,
        frozen=every - trainable,
        decayed=count_parameters(tensor for tensor in trained.values() if decays(tensor, stage)),
        norms=[norm.training for norm in norms],
    )


def plan_stage(
    stage: Stage,
    selection: Selection,
    outline: ZooModel,
    *,
    train: int,
    val: int,
    pretrained: bool,
    feature_shape: tuple[int, ...],
    device: str,
    cut_fault: Callable[[str], str] | None = None,
    asked: str = "",
    precision: Precision = "float32",
) -> StagePlan:
    """One stage of the plan.

    Args:
        stage: Its settings.
        selection: What its selectors mean for this model.
        outline: The model on the meta device.
        train: Number of training images.
        val: Number of validation images.
        pretrained: Whether the run starts from weights that were trained before.
        feature_shape: Shape of the features of one image.
        device: The device that the run computes on.
        cut_fault: As for `zoo.frozen.decision.decide_for_backbone`.
        asked: The option that asks for gradient steps in this stage; empty where none does.
        precision: That of the backbone.

    Raises OptionError where the head is to be fitted to more features than memory holds.
    """
    trains = _trains(selection)
    policy, policy_why = decide_batch_norm(stage, Evidence(images=train, pretrained=pretrained))
    parameters = _parameters(stage, selection, outline, policy)
    # How many features there are decides whether a solver fits them, and that decides how many views are used. So all
    # views are counted first.
    all_views = Amount(train=train, val=val, views=stage.views, epochs=1)
    features = decide_for_head(feature_shape, all_views, in_one_go=False)
    chosen = choose_solver(stage, selection, outline, features, asked)
    in_one_go = outline.closed_form or chosen.solver == "lbfgs"
    # More views than epochs would never be used. A closed form or a solver is fitted to all of them at once.
    views = stage.views if in_one_go else min(stage.views, stage.epochs)
    amount = Amount(train=train, val=val, views=views, epochs=stage.epochs)
    if selection.backbone:
        decision = decide_for_backbone(stage, outline, parameters.moving, amount, device, cut_fault)
    else:
        decision = decide_for_head(feature_shape, amount, in_one_go=in_one_go)
    if in_one_go:
        refuse_without_memory(stage.name, decision.bytes, solver=chosen.solver == "lbfgs")
    kept = {"float32": "float32", "bfloat16": "bfloat16 where exact"}[precision]
    return StagePlan(
        settings=stage,
        trains=tuple(trains),
        tensors=selection.tensors,
        adapters=selection.adapters,
        # A group of which only norms, biases or adapters train is in neither list.
        freezes=tuple(name for name in [*outline.groups.names, HEAD] if name not in (*trains, *parameters.moving)),
        trainable_parameters=parameters.trainable,
        frozen_parameters=parameters.frozen,
        decayed_parameters=parameters.decayed,
        rates={} if in_one_go else group_rates(stage, outline.active_groups(), parameters.moving),
        steps=0 if in_one_go else stage.epochs * len(batch_sizes(train, stage.batch_size * stage.accumulate)),
        inputs=decision.inputs,
        cut=decision.cut,
        kept_bytes=decision.bytes,
        kept_as="" if decision.inputs == "images" else kept,
        window=0 if in_one_go else window_of(decision, amount, stage),
        why=decision.why,
        batch_norms_frozen=parameters.norms.count(False),
        batch_norms_training=parameters.norms.count(True),
        batch_norm=policy,
        batch_norm_why=policy_why if outline.has_batch_norms(selection.groups) else "",
        views=views,
        solver=chosen.solver,
        solver_why=chosen.why,
    )


def group_rates(stage: Stage, groups: Sequence[str], trains: Sequence[str]) -> dict[str, float]:
    """Peak learning rate of every group that trains, by name; empty where the rate is still to be found.

    The head and the last group have `lr`. Each earlier group has `layer_decay` times the rate of the next one. Frozen
    groups count as well, so that a group's rate does not depend on what else trains.
    """
    if stage.lr == "auto":
        return {}
    rates = {}
    for name in trains:
        # The head is no group of the backbone, and has the full rate.
        distance = len(groups) - 1 - groups.index(name) if name in groups else 0
        rates[name] = stage.lr * stage.layer_decay**distance
    return rates


def decays(parameter: Tensor, stage: Stage) -> bool:
    """Whether weight decay acts on a parameter, of any shape.

    By default tensors of one dimension are spared: scales, shifts and biases.
    """
    return stage.weight_decay > 0 and (stage.decay_all or parameter.ndim > 1)


def count_parameters(parameters: Iterable[Tensor]) -> int:
    """How many numbers the tensors, of any shape, hold together."""
    return sum(tensor.numel() for tensor in parameters)
