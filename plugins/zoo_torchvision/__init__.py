"""torchvision's classification models as backbones.

Importing this, listing and resolving read the shipped `index.json`; torch is imported when something is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import zoo

from zoo_torchvision import index

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zoo_torchvision.index import Architecture, Weights


def architectures() -> Mapping[str, tuple[str, ...]]:
    """architecture -> its weights tags, the default first."""
    return index.tags()


def resolve(architecture: str) -> zoo.BackboneSpec:
    """Raises LookupError for a name that torchvision does not have."""
    return spec(architecture, index.architecture(architecture))


def spec(architecture: str, known: Architecture) -> zoo.BackboneSpec:
    """An architecture of the index as zoo's registry takes it."""
    weights = tuple(_weights(each) for each in known["weights"])
    return zoo.BackboneSpec(
        provider="torchvision",
        architecture=architecture,
        build=partial(_build, architecture),
        preprocessing=weights[0].preprocessing,
        weights=weights,
        summary=known["summary"],
        facts=zoo.BackboneFacts.from_dict(known["facts"]) if known["facts"] else None,
        reference=partial(_reference, architecture),
    )


def _weights(stored: Weights) -> zoo.WeightsSpec:
    return zoo.WeightsSpec(
        tag=stored["tag"],
        preprocessing=zoo.Preprocessing.from_dict(stored["preprocessing"]),
        source=zoo.UrlFile(url=stored["url"], sha256_prefix=stored["sha256_prefix"]),
        licence=stored["licence"],
        top1=stored["top1"],
    )


def _build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    from zoo_torchvision.build import build

    return build(architecture, tag=tag, state=state, input_size=input_size)


def _reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    from zoo_torchvision.build import reference

    return reference(architecture, tag)


@zoo.hookimpl
def zoo_backbones() -> Iterable[zoo.BackboneProvider]:
    return [
        zoo.BackboneProvider(
            name="torchvision",
            summary="torchvision's image classification models and their ImageNet weights.",
            architectures=architectures,
            resolve=resolve,
            precedence=0,
        )
    ]
