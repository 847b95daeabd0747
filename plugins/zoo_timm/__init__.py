"""The provider `timm`: the image models of timm as backbones.

Listing and resolving read the shipped `index.json`; torch and timm are imported only when a backbone is built.
"""

from __future__ import annotations

from collections.abc import Iterable

import zoo

from zoo_timm.catalogue import architectures, resolve


@zoo.hookimpl
def zoo_backbones() -> Iterable[zoo.BackboneProvider]:
    return [
        zoo.BackboneProvider(
            name="timm",
            summary="The image classification models and encoders of timm, PyTorch Image Models.",
            architectures=architectures,
            resolve=resolve,
            precedence=1,
        )
    ]
