"""The backbones of timm. Listing them reads the shipped index; torch and timm are imported when one is built."""

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
