"""From `--weights` to tensors: what the option means, and the tensors of the file that it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from zoo.errors import PluginError, Refused, UnknownName
from zoo.registry.names import ResolvedBackbone
from zoo.specs.backbone import WeightsSpec
from zoo.storage.tensors import file_digest
from zoo.weights.download import Download, OnBytes
from zoo.weights.fetch import check_available, fetch
from zoo.weights.state import check_weights_file, read_state


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsChoice:
    """Which weights a run starts from."""

    kind: Literal["tag", "random", "file"]
    tag: str | None
    """The tag of the weights; for `random` and `file`, the tag whose configuration and preprocessing are used."""
    path: Path | None = None
    """Path of the file if `kind` is `file`."""

    @property
    def label(self) -> str:
        """The tag, `random`, or `file:NAME`."""
        if self.kind == "file" and self.path is not None:
            return f"file:{self.path.name}"
        return "random" if self.kind == "random" else str(self.tag)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The tensors of a choice."""

    choice: WeightsChoice
    state: Mapping[str, Tensor] | None
    """Tensors of any shape by name, as upstream names them; None for random weights."""
    digest: str | None
    """SHA-256 of the file that they were read from; None for random weights."""


def choose_weights(backbone: ResolvedBackbone, asked: str) -> WeightsChoice:
    """The meaning of `--weights`: `default`, a tag, `random`, or a file.

    Raises:
        Refused: The backbone has no published weights, or its name and `asked` name different tags.
        UnknownName: There is no such tag.
        WeightsError: There is no such file.
    """
    tag = backbone.tag
    if asked == "random":
        return WeightsChoice(kind="random", tag=tag)
    if asked == "default":
        if tag is None:
            raise Refused(
                f"Nobody published weights for {backbone.spec.name}.\n"
                "Next: --weights FILE with your own, or --weights random to train from scratch, or another backbone."
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


def obtain_weights(
    backbone: ResolvedBackbone,
    choice: WeightsChoice,
    *,
    offline: bool = False,
    announce: Callable[[Download], None] | None = None,
    progress: OnBytes | None = None,
) -> Weights:
    """Read the chosen weights, downloading them if they are not on this machine.

    Args:
        backbone: The backbone that publishes them.
        choice: Which weights.
        offline: Do not use the network.
        announce: Called before a download.
        progress: Called as bytes arrive.

    Raises:
        WeightsError: They cannot be downloaded or read; Unreachable, Offline.
    """
    if choice.kind == "random":
        return Weights(choice=choice, state=None, digest=None)
    path = choice.path
    if path is None:
        spec = _published(backbone, choice)
        path = fetch(
            spec.source,
            name=f"{backbone.spec.name}.{spec.tag}",
            licence=spec.licence,
            offline=offline,
            announce=announce,
            progress=progress,
        )
    return Weights(choice=choice, state=read_state(path), digest=file_digest(path))


def require_weights(backbone: ResolvedBackbone, choice: WeightsChoice, *, offline: bool) -> None:
    """Raise Offline if the chosen weights are not on this machine and the network is switched off.

    Nothing is downloaded or read.
    """
    if choice.kind == "tag":
        spec = _published(backbone, choice)
        check_available(spec.source, name=f"{backbone.spec.name}.{spec.tag}", offline=offline)


def _published(backbone: ResolvedBackbone, choice: WeightsChoice) -> WeightsSpec:
    spec = backbone.spec.weights_for(choice.tag)
    if spec is None:
        raise PluginError(f"{backbone.spec.name} names the tag {choice.tag!r} and has no weights for it.")
    return spec


def _named_tag(backbone: ResolvedBackbone) -> str | None:
    _, dot, tag = backbone.asked.rpartition("/")[2].partition(".")
    return tag if dot else None
