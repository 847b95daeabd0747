"""From a choice of weights to their tensors."""

from __future__ import annotations

from collections.abc import Callable

from zoo.errors import PluginError
from zoo.model.build import Weights, WeightsChoice, file_digest
from zoo.model.weights import read_state
from zoo.registry import ResolvedBackbone
from zoo.specs import WeightsSpec
from zoo.weights.download import Download, Progress
from zoo.weights.fetch import fetch, require


def obtain_weights(
    backbone: ResolvedBackbone,
    choice: WeightsChoice,
    *,
    offline: bool = False,
    announce: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Read the chosen weights, downloading them where they are not on this machine yet; `offline`: not from the
    network. Raises WeightsError."""
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
    """Raise Offline where the chosen weights are not on this machine and the network is switched off; nothing is
    downloaded or read."""
    if choice.kind == "tag":
        spec = _published(backbone, choice)
        require(spec.source, name=f"{backbone.spec.name}.{spec.tag}", offline=offline)


def _published(backbone: ResolvedBackbone, choice: WeightsChoice) -> WeightsSpec:
    spec = backbone.spec.weights_for(choice.tag)
    if spec is None:
        raise PluginError(f"{backbone.spec.name} names the tag {choice.tag!r} and has no weights for it.")
    return spec
