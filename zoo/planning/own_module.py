"""A module of one's own as a backbone: copied, measured, and refused where zoo could not keep its promises with it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, PluginError, first_line, without_step
from zoo.model.data_flow import NoChain, find_chain
from zoo.model.groups import partition
from zoo.model.own_checks import (
    ModuleOutput,
    classifier_warning,
    frozen_warning,
    on_meta,
    output_layout,
    refuse_lazy,
    refuse_unfit,
    refuse_unsaved,
    untrained_warning,
)
from zoo.model.redraw import not_drawn, redraw
from zoo.model.stated_preprocessing import stated_preprocessing
from zoo.registry.session import SESSION
from zoo.specs.backbone import Backbone, BackboneSpec, FeatureShape, Group, OwnWeights
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.validation import NAME, check_name, fit_name
from zoo.weights.state import load_weights

Groups = Sequence[Group] | Mapping[str, str | Sequence[str]]
"""Groups from input to output, or their names with the dotted names of what is in them."""
_HOW = (
    "zoo.module_backbone(module, preprocessing=zoo.Preprocessing(input_size=(3, 224, 224), resize_size=(256, 256), "
    "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))), with the numbers that the module was trained with"
)


def module_backbone(
    module: nn.Module,
    *,
    preprocessing: Preprocessing | None = None,
    groups: Groups | None = None,
    name: str | None = None,
) -> BackboneSpec:
    """A module of your own as a backbone: what it returns is what a head gets.

    The module is copied at once, with its values, which training starts from by default; it never changes itself. It
    is run on two random images to see what it returns: `features[N, F]`, or `map[N, C, H, W]`, whose mean over the
    positions is then the pooled features.

    Args:
        module: Takes `images[N, 3, H, W]` in float32.
        preprocessing: What images go through before. Default: what a timm model states about its weights.
        groups: Its parts from input to output, which recipes train one after the other. Default: its top-level parts,
            where data flow through them in a chain, which is measured.
        name: Its name in what is stored, `session/NAME`. Default: that of timm's architecture, or of the class.

    Raises:
        OptionError: It is no module, states no preprocessing, does not take images, returns something else, has groups
            that do not cover every parameter once, or holds something that could not be saved or repeated.
    """
    _refuse_no_module(module)
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    label = _name(module, name)
    stated = _stated(module, preprocessing, label)
    refuse_lazy(module, f"The module {label}", "run it once on images, then pass it")
    _refuse_without_values(module, label)
    refuse_unsaved(module, f"The module {label}")
    kept = _copied(module, label)
    refuse_unfit(kept, label)
    layout = output_layout(copy.deepcopy(kept), stated, label)  # running may change what a module counts
    # Last, as a module that cannot be run would only be said to have no chain of parts.
    chosen = _given_groups(kept, groups, label) if groups is not None else _measured_groups(kept, stated, label)
    # Of the module itself: in the copy, everything can be trained.
    warnings = (frozen_warning(module, label), classifier_warning(kept, layout, label))
    return BackboneSpec(
        provider=SESSION,
        architecture=label,
        build=functools.partial(_build, kept, layout, chosen),
        preprocessing=stated,
        summary=f"A module of the class {type(module).__name__}, passed as an object; {layout.words}.",
        own=OwnWeights(
            state=functools.partial(_state, kept),
            not_drawn=not_drawn(kept),
            warning=untrained_warning(kept, label),
        ),
        warning=" ".join(filter(None, warnings)),
    )


def _refuse_no_module(module: object) -> None:
    if isinstance(module, nn.Module):
        return
    step = f"a module of that class, {module.__name__}(...)" if isinstance(module, type) else "one of these"
    raise OptionError(
        f"A backbone is a name, a zoo.BackboneSpec or a torch module, and this is a {_type(module)}.\n"
        f"Next: pass {step}; zoo list backbones shows the names."
    )


def _stated(module: nn.Module, given: Preprocessing | None, label: str) -> Preprocessing:
    """The preprocessing that was given, else what the module states of itself."""
    stated = given if given is not None else stated_preprocessing(module, label)
    if not isinstance(stated, Preprocessing):
        what = "says nothing of its preprocessing" if stated is None else f"was given the preprocessing {stated!r}"
        raise OptionError(f"The module {label} {what}, and images need one.\nNext: {_HOW}.")
    return stated


def _refuse_without_values(module: nn.Module, label: str) -> None:
    empty = [each for each, parameter in module.named_parameters() if parameter.device.type == "meta"]
    if empty:
        raise OptionError(
            f"The module {label} has no values: {empty[0]!r} is on the meta device.\n"
            "Next: module.to_empty(device='cpu'), load its weights, then pass it."
        )


def _build(
    kept: nn.Module,
    layout: ModuleOutput,
    groups: tuple[Group, ...],
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
) -> Backbone:
    """A copy of the module on the current default device, with the tensors of any shape in `state`.

    Without a state its values are drawn anew, where they can be. Where they cannot, the copy keeps them: it is built
    for its shapes, or to be filled from an artefact, as random weights are refused when they are asked for.
    """
    device = torch.get_default_device()
    module = on_meta(kept) if device.type == "meta" else copy.deepcopy(kept).to(device)
    if state is not None:
        load_weights(module, state, architecture=f"{SESSION}/{type(kept).__name__}")
    elif device.type != "meta" and not not_drawn(module):
        redraw(module)
    shape = FeatureShape(pooled=layout.width, map=layout.width if layout.map is not None else None)
    return Backbone(module=module, shape=shape, groups=groups, pool=layout.pool, map=layout.map, no_map=layout.no_map)


def _state(kept: nn.Module) -> dict[str, Tensor]:
    """The tensors of any shape that the module had when it was passed, by name."""
    return dict(kept.state_dict())


def _copied(module: nn.Module, label: str) -> nn.Module:
    """A copy on the CPU, in evaluation mode, that shares nothing with the module."""
    try:
        copied = copy.deepcopy(module).cpu()
    except Exception as error:  # copying runs code of everything that the module holds
        raise OptionError(
            f"The module {label} cannot be copied, and zoo never changes what was passed: {first_line(error)}.\n"
            "Next: remove from it what is no module, parameter, buffer or plain value."
        ) from error
    return copied.eval().requires_grad_(True)


def _measured_groups(kept: nn.Module, stated: Preprocessing, label: str) -> tuple[Group, ...]:
    try:
        with torch.device("meta"):  # which data depend on which shows without values
            chain = find_chain(on_meta(kept), torch.zeros(2, *stated.input_size))
    except NoChain as error:
        raise OptionError(
            f"Without groups, the parts of a module are its groups, where data flow through them in a chain. "
            f"Of {label} was seen that {error}.\n"
            f"Next: zoo.module_backbone(module, groups={_example(kept)}), or more of them, from input to output."
        ) from error
    return tuple(Group(name=part, members=(part,)) for part in chain)


def _example(module: nn.Module) -> dict[str, list[str]]:
    """Two groups that cover a module, as one could write them: the beginning, and the rest."""
    own, parts = _parts(module)
    if own and parts:
        return {"stem": [*own, parts[0]], **({"body": parts[1:]} if parts[1:] else {})}
    first, *rest = own or parts
    return {"stem": [first], **({"body": rest} if rest else {})}


def _given_groups(kept: nn.Module, groups: Groups, label: str) -> tuple[Group, ...]:
    try:
        if isinstance(groups, Mapping):
            given = tuple(
                Group(name=name, members=(members,) if isinstance(members, str) else tuple(members))
                for name, members in groups.items()
            )
        else:
            given = tuple(groups)
        if not all(isinstance(group, Group) for group in given):
            raise TypeError("groups are zoo.Group objects, or a dictionary of names and members")
        partition(kept, given, backbone=label)
    except (PluginError, TypeError, ValueError) as error:
        parts = ", ".join(name for names in reversed(_parts(kept)) for name in names)
        raise OptionError(
            f"These groups do not divide the module: {without_step(str(error)).rstrip('.')}.\n"
            f"Next: name each of its parts in one group, from input to output. They are: {parts}."
        ) from error
    return given


def _parts(module: nn.Module) -> tuple[list[str], list[str]]:
    """(a module's own parameters, its top-level parts that hold parameters): what groups have to cover."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return own, [name for name, part in module.named_children() if any(True for _ in part.parameters())]


def _name(module: nn.Module, name: str | None) -> str:
    if name is None:
        stated = getattr(module, "pretrained_cfg", None)
        architecture = stated.get("architecture") if isinstance(stated, Mapping) else None
        return fit_name(architecture if isinstance(architecture, str) else type(module).__name__)
    try:
        check_name("backbone", name, NAME)
    except ValueError as error:
        raise OptionError(f"{error}.\nNext: name={fit_name(str(name))!r}") from None
    return name


def _type(value: object) -> str:
    return f"class ({value.__name__})" if isinstance(value, type) else type(value).__name__
