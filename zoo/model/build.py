"""From names to a model: which weights were meant, where they come from, and the parts put together."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.errors import OptionError, PluginError, Refused, UnknownName
from zoo.model.model import ZooModel
from zoo.model.weights import check_weights_file
from zoo.preprocessing import Preprocessing
from zoo.registry import Contribution, ResolvedBackbone
from zoo.specs import Backbone, BuildBackbone, HeadSpec, Needs

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsChoice:
    """Which weights a run starts from."""

    kind: Literal["tag", "random", "file"]
    tag: str | None
    """The tag whose weights are meant, or, for `random` and `file`, whose configuration and preprocessing are used."""
    path: Path | None = None

    @property
    def label(self) -> str:
        """The tag, `random`, or `file:NAME`."""
        if self.kind == "file" and self.path is not None:
            return f"file:{self.path.name}"
        return "random" if self.kind == "random" else str(self.tag)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The tensors of a choice; `state` is None for random weights."""

    choice: WeightsChoice
    state: Mapping[str, Tensor] | None
    digest: str | None
    """SHA-256 of the file they were read from."""


def choose_weights(backbone: ResolvedBackbone, asked: str) -> WeightsChoice:
    """What `--weights` means: `default`, a tag, `random`, or a file.

    Raises Refused for a backbone without weights and UnknownName for a tag that does not exist.
    """
    tag = backbone.tag
    if asked == "random":
        return WeightsChoice(kind="random", tag=tag)
    if asked == "default":
        if tag is None:
            raise Refused(
                f"Nobody published weights for {backbone.spec.name}.\n"
                "Next: --weights FILE with your own, or --weights random to train from nothing, or another backbone."
            )
        return WeightsChoice(kind="tag", tag=tag)
    named = _named_tag(backbone)
    if asked in backbone.spec.tags:
        if named not in (None, asked):
            raise Refused(
                f"The backbone {backbone.asked!r} names the weights {named!r}, --weights names {asked!r}: drop one."
            )
        return WeightsChoice(kind="tag", tag=asked)
    path = Path(asked).expanduser()
    if path.suffix or "/" in asked or os.path.exists(path):  # noqa: PTH110 - False for a name too long
        check_weights_file(path)
        return WeightsChoice(kind="file", tag=tag, path=path)
    tags = ", ".join(backbone.spec.tags) or "none"
    hint = f"{backbone.spec.name} has: {tags}. A file is given by its path, random weights by 'random'."
    raise UnknownName("weights tag", asked, backbone.spec.tags, hint=hint)


def build_model(
    backbone: ResolvedBackbone,
    head: Contribution[HeadSpec],
    options: Any,
    *,
    classes: tuple[str, ...],
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> ZooModel:
    """Backbone and head as one model on the current device.

    `input_size` is (height, width) where it is not that of the weights. Raises Refused for a pair that cannot work,
    WeightsMismatch, PluginError.
    """
    built, preprocessing = _sized(backbone, tag, state, input_size)
    return ZooModel(
        built,
        _head(backbone, built, head, len(classes), options),
        name=backbone.qualified,
        classes=classes,
        preprocessing=preprocessing,
        needs=head.spec.needs,
        loss=head.spec.loss,
        fit=head.spec.fit,
    )


def build_headless(
    backbone: ResolvedBackbone, needs: Needs, *, tag: str | None, input_size: tuple[int, int] | None = None
) -> ZooModel:
    """The backbone with random weights and no head, on the current device: what it gives a head comes out."""
    built, preprocessing = _sized(backbone, tag, None, input_size)
    return ZooModel(built, nn.Identity(), name=backbone.qualified, classes=(), preprocessing=preprocessing, needs=needs)


def _sized(
    backbone: ResolvedBackbone, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None
) -> tuple[Backbone, Preprocessing]:
    native = backbone.spec.preprocessing_for(tag)
    preprocessing = native.at(*input_size) if input_size else native
    resized = preprocessing.input_size[1:] if preprocessing.input_size != native.input_size else None
    return build_backbone(backbone.spec.build, tag=tag, state=state, input_size=resized), preprocessing


def build_backbone(
    build: BuildBackbone, *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None
) -> Backbone:
    """Call a provider; `input_size` is passed only where it is asked for, to one that knows the argument.

    One that does not may still build what takes images of any size: running it tells.
    """
    known = inspect.signature(build).parameters.values()
    sized = any(each.name == "input_size" or each.kind is inspect.Parameter.VAR_KEYWORD for each in known)
    if input_size is None or not sized:
        return build(tag=tag, state=state)
    return build(tag=tag, state=state, input_size=input_size)


def build_outline(
    backbone: ResolvedBackbone,
    head: Contribution[HeadSpec],
    options: Any,
    *,
    classes: tuple[str, ...],
    tag: str | None,
    input_size: tuple[int, int] | None = None,
) -> ZooModel:
    """The same model on the meta device: shapes and groups, no memory, no weights."""
    with torch.device("meta"):
        return build_model(backbone, head, options, classes=classes, tag=tag, state=None, input_size=input_size)


def _head(
    backbone: ResolvedBackbone, built: Backbone, head: Contribution[HeadSpec], classes: int, options: Any
) -> nn.Module:
    if head.spec.needs == "map" and built.map is None:
        why = f": {built.no_map}" if built.no_map else ""
        raise Refused(
            f"Head {head.spec.name!r} needs a map[N, C, H, W] of features, and {backbone.spec.name} has none{why}.\n"
            f"Next: a head that takes pooled features (zoo list heads), such as --head linear, or a backbone with a "
            f"map: zoo list backbones --head {head.spec.name}"
        )
    try:
        module = head.spec.build(built.shape, classes, options)
    except ValueError as error:
        raise OptionError(f"Head {head.spec.name!r} on {backbone.spec.name}: {error}") from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"Head {head.spec.name!r} of {head.plugin.label} built a {type(module).__name__}, not a torch module."
        )
    if head.spec.fit is not None and any(True for _ in module.parameters()):
        raise PluginError(
            f"Head {head.spec.name!r} of {head.plugin.label} is fitted in closed form and has parameters."
        )
    return module


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _named_tag(backbone: ResolvedBackbone) -> str | None:
    _, dot, tag = backbone.asked.rpartition("/")[2].partition(".")
    return tag if dot else None
