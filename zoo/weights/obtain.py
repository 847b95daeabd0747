"""From `--weights` to tensors: what the option means, and the tensors of the file that it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from zoo.errors import OptionError, PluginError, Refused, UnknownName, WeightsError
from zoo.registry.names import ResolvedBackbone
from zoo.specs.backbone import WeightsSpec
from zoo.storage.tensors import file_digest, tensors_digest
from zoo.weights.download import Download, OnBytes
from zoo.weights.fetch import available, fetch
from zoo.weights.fitting import Architecture, fit
from zoo.weights.state import check_weights_file, read_content, read_state


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsChoice:
    """Which weights a run starts from."""

    kind: Literal["tag", "random", "file", "own"]
    """`own`: the values of a module that was passed as the backbone."""
    tag: str | None
    """The tag of the weights; for `random` and `file`, the tag whose configuration and preprocessing are used."""
    path: Path | None = None
    """Path of the file if `kind` is `file`."""
    averages_first: bool = True
    """Whether of a file that holds both, a moving average is taken, as timm does. False for a plan that was stored
    before zoo did."""

    @property
    def label(self) -> str:
        """The tag, `random`, `own`, or `file:NAME`."""
        if self.kind == "file" and self.path is not None:
            return f"file:{self.path.name}"
        return str(self.tag) if self.kind == "tag" else self.kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The tensors of a choice."""

    choice: WeightsChoice
    state: Mapping[str, Tensor] | None
    """Tensors of any shape by name, as upstream names them; None for random weights."""
    digest: str | None
    """SHA-256 of the file that they were read from, or over a module's own tensors; None for random weights, and where
    nothing was read."""
    taken: str | None = None
    """What was taken from a user's file; None: the tensors at the top, as they are."""
    note: str = ""
    """What was taken and what was not, for people; empty where there is nothing to tell."""
    ambiguous: bool = False
    """Whether the file holds other tensors that fit too."""
    download: str | None = None
    """The address that they are still to be downloaded from; None where they are on this machine."""


def choose_weights(backbone: ResolvedBackbone, asked: str) -> WeightsChoice:
    """The meaning of `--weights`: `default`, a tag, `random`, or a file.

    Raises:
        OptionError: It is no text.
        Refused: The backbone has no published weights, or its name and `asked` name different tags.
        UnknownName: There is no such tag.
        WeightsError: There is no such file.
    """
    if not isinstance(asked, (str, os.PathLike)):
        raise OptionError(
            f"weights are a tag, 'random' or the path of a file, and this is a {type(asked).__name__}.\n"
            "Next: load the values into a module and pass that as backbone (zoo.module_backbone)."
        )
    asked = os.fspath(asked)
    tag = backbone.tag
    if asked == "random":
        return WeightsChoice(kind="random", tag=tag)
    if asked == "default":
        if tag is None and backbone.spec.own is not None:
            return WeightsChoice(kind="own", tag=None)
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
                f"The backbone {backbone.asked!r} names the weights {named!r}, --weights names {asked!r}.\n"
                "Next: leave one of the two out."
            )
        return WeightsChoice(kind="tag", tag=asked)
    path = Path(asked).expanduser()
    # What looks like a path is one: a missing file is not to be reported as an unknown tag.
    if path.suffix or "/" in asked or os.path.exists(path):
        check_weights_file(path)
        return WeightsChoice(kind="file", tag=tag, path=path)
    tags = ", ".join(backbone.spec.tags) or "none"
    own = " The values of the module itself are taken without any." if backbone.spec.own else ""
    hint = f"{backbone.spec.name} has: {tags}.{own}"
    step = "give one of these, the path of a file, or 'random' to train from scratch."
    # Where the name of the backbone holds a tag, no other one is accepted.
    usable = [*([named] if named else backbone.spec.tags), *(["default"] if tag or backbone.spec.own else []), "random"]
    raise UnknownName("weights tag", asked, usable, hint=hint, step=step)


def obtain_weights(
    backbone: ResolvedBackbone,
    choice: WeightsChoice,
    architecture: Architecture,
    *,
    offline: bool = False,
    announce: Callable[[Download], None] | None = None,
    progress: OnBytes | None = None,
) -> Weights:
    """Read the chosen weights, downloading them if they are not on this machine.

    Args:
        backbone: The backbone that publishes them.
        choice: Which weights.
        architecture: What the tensors of a user's file are fitted to.
        offline: Do not use the network.
        announce: Called before a download.
        progress: Called as bytes arrive.

    Raises:
        Refused: Random weights are asked for, and initial values cannot be drawn anew.
        WeightsError: They cannot be downloaded or read, or are not for this architecture; Unreachable, Offline.
    """
    if choice.kind == "random":
        _refuse_undrawn(backbone)
        return Weights(choice=choice, state=None, digest=None)
    if choice.kind == "own":
        return _own(backbone, choice)
    if choice.path is not None:
        return replace(_fitted(choice, choice.path, architecture, values=True), digest=file_digest(choice.path))
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


def examine_weights(
    backbone: ResolvedBackbone, choice: WeightsChoice, architecture: Architecture, *, offline: bool
) -> Weights:
    """What `obtain_weights` would give, without the tensors. Nothing is downloaded, and no more is read than needed.

    Raises:
        Refused: As `obtain_weights`.
        WeightsError: They cannot be read, or are not for this architecture; Offline where they are not on this machine
            and the network is switched off.
    """
    if choice.kind == "random":
        _refuse_undrawn(backbone)
        return Weights(choice=choice, state=None, digest=None)
    if choice.kind == "own":
        return replace(_own(backbone, choice), state=None)
    if choice.path is not None:
        return _examined(choice, choice.path, architecture)
    spec = _published(backbone, choice)
    place = available(spec.source, name=f"{backbone.spec.name}.{spec.tag}", offline=offline)
    if isinstance(place, Path):
        read_content(place, values=False)  # for the error: what cannot be read is refused by the plan, not in the run
    return Weights(choice=choice, state=None, digest=None, download=place if isinstance(place, str) else None)


def _own(backbone: ResolvedBackbone, choice: WeightsChoice) -> Weights:
    assert backbone.spec.own is not None, "chosen because the backbone has them"
    state = backbone.spec.own.state()
    return Weights(choice=choice, state=state, digest=tensors_digest(state))


def _refuse_undrawn(backbone: ResolvedBackbone) -> None:
    own = backbone.spec.own
    if own is not None and own.not_drawn:
        raise Refused(
            f"Random weights for {backbone.spec.name} cannot be drawn: {own.not_drawn}.\n"
            "Next: build the module anew and leave weights out. Training starts from the values that it has."
        )


def _fitted(choice: WeightsChoice, path: Path, architecture: Architecture, *, values: bool) -> Weights:
    found = fit(
        read_content(path, values=values), path, architecture, averages_first=choice.averages_first, values=values
    )
    return Weights(
        choice=choice,
        state=found.state,
        digest=None,
        taken=found.taken,
        note=found.note(path),
        ambiguous=bool(found.others),
    )


def _examined(choice: WeightsChoice, path: Path, architecture: Architecture) -> Weights:
    """What a file gives, without tensors: by names and shapes; where the provider refuses these, by its values."""
    refusal: WeightsError | None = None
    try:
        fitted = _fitted(choice, path, architecture, values=False)
        # Building says more than names: shapes, and tensors that the architecture does not have.
        refusal = architecture.refusal(fitted.state or {}, False)
    except WeightsError as error:
        refusal = error
    if refusal is not None:
        fitted = _fitted(choice, path, architecture, values=True)
        refusal = architecture.refusal(fitted.state or {}, True)
        if refusal is not None:
            raise refusal
    return replace(fitted, state=None)


def _published(backbone: ResolvedBackbone, choice: WeightsChoice) -> WeightsSpec:
    spec = backbone.spec.weights_for(choice.tag)
    if spec is None:
        raise PluginError(f"{backbone.spec.name} names the tag {choice.tag!r} and has no weights for it.")
    return spec


def _named_tag(backbone: ResolvedBackbone) -> str | None:
    # Not `backbone.tag`, which is the default one where the name has none.
    _, dot, tag = backbone.asked.rpartition("/")[2].partition(".")
    return tag if dot else None
