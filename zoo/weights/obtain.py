"""From a choice of weights to their tensors."""

from __future__ import annotations

from collections.abc import Callable

from zoo.errors import PluginError
from zoo.model.build import Weights, WeightsChoice, file_digest
from zoo.model.weights import read_state
from zoo.registry import ResolvedBackbone
from zoo.weights.fetch import Download, Progress, fetch


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
        spec = backbone.spec.weights_for(choice.tag)
        if spec is None:
            raise PluginError(f"{backbone.spec.name} names the tag {choice.tag!r} and has no weights for it.")
        path = fetch(
            spec.source,
            name=f"{backbone.spec.name}.{spec.tag}",
            licence=spec.licence,
            offline=offline,
            announce=announce,
            progress=progress,
        )
    return Weights(choice=choice, state=read_state(path), digest=file_digest(path))
