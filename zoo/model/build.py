"""Build a backbone and a head as one model: with weights, without them on the meta device, or without a head.

`skip_init` leaves out drawing initial values, which is most of the time that building takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import OptionError, PluginError, Refused, with_step
from zoo.model.layers import NoLayers, find_outputs
from zoo.model.model import ZooModel, with_layers
from zoo.registry.names import ResolvedBackbone
from zoo.registry.plugins import Contribution
from zoo.specs.backbone import Backbone, BuildBackbone, GroupOutput
from zoo.specs.head import HeadSpec, Needs
from zoo.specs.preprocessing import Preprocessing


def build_model(
    backbone: ResolvedBackbone,
    head: Contribution[HeadSpec],
    options: Any,
    *,
    classes: tuple[str, ...],
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
    layers: Sequence[GroupOutput] = (),
) -> ZooModel:
    """Build backbone and head as one model on the current default device.

    Args:
        backbone: The backbone to build.
        head: The head to build.
        options: The head's options, as its spec declares them.
        classes: Class names, in the order of the logits.
        tag: The weights that the backbone is built for; None where it has none.
        state: The weights file's tensors by name, in the shapes that upstream published; None for random weights.
        input_size: (height, width) in pixels; None for the size that the weights were made for.
        layers: What `layers_of` returns, for a head that needs the layers.

    Raises:
        Refused: Backbone and head do not fit together.
        OptionError: The head cannot be built with these options on this backbone.
        WeightsMismatch: The tensors do not fit the backbone.
        PluginError: A plugin's code returned something else than it promised.
    """
    # Backbone, then head: initial values come from one random generator, so another order would give other ones.
    built, preprocessing = _build_for_size(backbone, tag, state, input_size)
    return ZooModel(
        built,
        _build_head(backbone, built, head, len(classes), options, layers),
        name=backbone.qualified,
        classes=classes,
        preprocessing=preprocessing,
        needs=head.spec.needs,
        loss=head.spec.loss,
        fit=head.spec.fit,
        linear=head.spec.linear,
        layers=layers,
    )


def build_outline(
    backbone: ResolvedBackbone,
    head: Contribution[HeadSpec],
    options: Any,
    *,
    classes: tuple[str, ...],
    tag: str | None,
    input_size: tuple[int, int] | None = None,
    layers: Sequence[GroupOutput] = (),
) -> ZooModel:
    """Build the same model as `build_model` on the meta device: with shapes and groups, without memory and weights."""
    with torch.device("meta"):
        return build_model(
            backbone, head, options, classes=classes, tag=tag, state=None, input_size=input_size, layers=layers
        )


def build_headless(
    backbone: ResolvedBackbone,
    needs: Needs,
    *,
    tag: str | None,
    input_size: tuple[int, int] | None = None,
    layers: Sequence[GroupOutput] = (),
) -> ZooModel:
    """Build the backbone with random weights on the current default device; the model returns the features.

    `needs` selects them: `pooled` for features[N, F], `map` for the map[N, C, H, W], `layers` for features[N, L].
    """
    built, preprocessing = _build_for_size(backbone, tag, None, input_size)
    return ZooModel(
        built,
        nn.Identity(),
        name=backbone.qualified,
        classes=(),
        preprocessing=preprocessing,
        needs=needs,
        layers=layers,
    )


def layers_of(
    backbone: ResolvedBackbone, head: str, *, tag: str | None, input_size: tuple[int, int] | None = None
) -> tuple[GroupOutput, ...]:
    """Find where the outputs of a backbone's groups are read, on the meta device.

    Args:
        backbone: The backbone.
        head: The name of the head that needs them, for the message.
        tag: The weights that it is built for.
        input_size: (height, width) in pixels; None for the size that the weights were made for.

    Raises Refused where no group has an output that can be pooled.
    """
    try:
        return group_outputs(backbone, tag=tag, input_size=input_size)
    except NoLayers as error:
        raise Refused(
            f"Head {head!r} needs the outputs of the groups of {backbone.spec.name}, and there are none that it could "
            f"take: {error}.\n"
            f"Next: a head that takes pooled features (zoo list heads), such as --head linear, or another backbone: "
            f"zoo list backbones --head {head}"
        ) from error


def group_outputs(
    backbone: ResolvedBackbone, *, tag: str | None, input_size: tuple[int, int] | None = None
) -> tuple[GroupOutput, ...]:
    """Find where the outputs of a backbone's groups are read; arguments as for `layers_of`. Raises NoLayers."""
    _, height, width = backbone.spec.preprocessing_for(tag).input_size
    native = height, width

    def build(size: tuple[int, int]) -> Backbone:
        # At its own size a backbone is built without a word about size, as everywhere: not every provider takes one.
        resized = size if size != native else None
        return build_backbone(backbone.spec.build, tag=tag, state=None, input_size=resized)

    return find_outputs(build, input_size or native)


def build_with_state(
    backbone: ResolvedBackbone,
    state: Mapping[str, Tensor],
    *,
    tag: str | None,
    input_size: tuple[int, int] | None,
    values: bool,
) -> None:
    """Build the backbone with tensors of any shape by name, only to see whether its provider takes them.

    `values` False: on the meta device, by names and shapes alone, which takes no time and no memory. A conversion that
    looks at values fails there.

    Raises WeightsMismatch, or what the provider's code raises.
    """
    if values:
        _build_for_size(backbone, tag, state, input_size)
        return
    with torch.device("meta"):
        _build_for_size(backbone, tag, {name: tensor.to("meta") for name, tensor in state.items()}, input_size)


def build_backbone(
    build: BuildBackbone, *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None
) -> Backbone:
    """Call a provider's function that builds a backbone.

    `input_size`, (height, width) in pixels, is passed only where it is given and the function has such a parameter. A
    backbone without it may still take images of any size; that is found out by running it.
    """
    parameters = inspect.signature(build).parameters.values()
    takes_size = any(
        parameter.name == "input_size" or parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters
    )
    # A plugin may have been written before sizes were passed on, or for networks that take every size.
    if input_size is None or not takes_size:
        return build(tag=tag, state=state)
    return build(tag=tag, state=state, input_size=input_size)


def _build_for_size(
    backbone: ResolvedBackbone, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None
) -> tuple[Backbone, Preprocessing]:
    native = backbone.spec.preprocessing_for(tag)
    preprocessing = native.at(*input_size) if input_size else native
    resized = preprocessing.input_size[1:] if preprocessing.input_size != native.input_size else None
    return build_backbone(backbone.spec.build, tag=tag, state=state, input_size=resized), preprocessing


def _build_head(
    backbone: ResolvedBackbone,
    built: Backbone,
    head: Contribution[HeadSpec],
    classes: int,
    options: Any,
    layers: Sequence[GroupOutput],
) -> nn.Module:
    if head.spec.needs == "map" and built.map is None:
        why = f": {built.no_map}" if built.no_map else ""
        raise Refused(
            f"Head {head.spec.name!r} needs a map[N, C, H, W] of features, and {backbone.spec.name} has none{why}.\n"
            f"Next: a head that takes pooled features (zoo list heads), such as --head linear, or a backbone with a "
            f"map: zoo list backbones --head {head.spec.name}"
        )
    try:
        module = head.spec.build(with_layers(built.shape, layers), classes, options)
    except ValueError as error:
        step = f"zoo show {head.spec.name} lists its options."
        raise OptionError(with_step(f"Head {head.spec.name!r} on {backbone.spec.name}: {error}", step)) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"Head {head.spec.name!r} of {head.plugin.label} built a {type(module).__name__}, not a torch module."
        )
    # A parameter would wait for gradients that never come: a closed-form fit takes no steps.
    if head.spec.fit is not None and any(True for _ in module.parameters()):
        raise PluginError(
            f"Head {head.spec.name!r} of {head.plugin.label} is fitted in closed form, so it must have no parameters, "
            "only buffers."
        )
    return module


_DRAWING = frozenset(
    {
        *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.orthogonal_),
        *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
        # Libraries have initialisers of their own, timm for one, and make them of these.
        *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.clamp_),
    }
)
"""Functions that draw the initial values of a parameter, or take part in drawing them."""


class skip_init(TorchFunctionMode):  # noqa: N801 - used as a function: `with zoo.skip_init():`
    """While this context is active, parameters get no random initial values.

    It is for modules whose weights are all overwritten afterwards, and for the meta device, which holds no values.
    Constant initial values (zeros, ones) are still set.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch's initialisers may be called either way, and all call their tensor `tensor`.
        target = args[0] if args else (kwargs or {}).get("tensor")
        # Parameters alone: mul_ and add_ are arithmetic as well, by which buffers such as position indices are made.
        if func in _DRAWING and isinstance(target, nn.Parameter):
            return target
        return func(*args, **(kwargs or {}))


undrawn = skip_init
"""An earlier name of `skip_init`, kept for code that uses it."""
