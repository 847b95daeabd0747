"""The provider `torchvision`: torchvision's image classification models as backbones.

Listing and resolving read the shipped `index.json`; torch and torchvision are imported only when a backbone is built.
"""

from __future__ import annotations

from collections.abc import Iterable

import zoo

from zoo_torchvision.catalogue import architectures, resolve


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
