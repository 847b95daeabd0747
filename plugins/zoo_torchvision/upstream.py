"""What torchvision itself says about its architectures and weights, as entries of the index. Imports torchvision."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zoo
from torchvision import models

from zoo_torchvision.index import Entry, WeightsEntry

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# torchvision writes the first digits of a file's SHA-256 at the end of its name.
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")
# "Constructs a ConvNeXt Tiny model architecture from the `A ConvNet for the 2020s <address>`_ paper."
_DOCUMENTATION = re.compile(
    r"(?:Constructs an? )?(?P<what>.+?)(?: model)?(?: architecture)?,? "
    r"(?:from|as described in)(?: the)? `(?P<paper>.+?) <http"
)


def names() -> list[str]:
    """Return the names of the classification architectures of the installed torchvision."""
    listed: list[str] = models.list_models(module=models)
    return sorted(listed)


def entry(architecture: str) -> Entry:
    """Return the index entry of an architecture. Nothing is built, so it has no facts."""
    members = models.get_model_weights(architecture)
    default_first = sorted(members, key=lambda weights: weights is not members.DEFAULT)
    return {
        "summary": _summary(architecture),
        "facts": None,
        "weights": [_weights_entry(weights) for weights in default_first],
    }


def weights_member(architecture: str, tag: str | None) -> Any:
    """Return torchvision's enumeration member for the weights `tag` (None: the default ones).

    Raises LookupError if the installed torchvision has no such weights.
    """
    members = models.get_model_weights(architecture)
    if tag is None:
        return members.DEFAULT
    if tag not in members.__members__:
        tags = ", ".join(members.__members__)
        raise LookupError(f"the installed torchvision has no weights {tag!r} for {architecture}; it has: {tags}")
    return members[tag]


def reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    """Return torchvision's own evaluation transform for the weights `tag` (None: the default ones).

    It maps an RGB PIL image to a tensor[3, H, W].
    """
    transform: Callable[[Image], Tensor] = weights_member(architecture, tag).transforms()
    return transform


def _weights_entry(weights: Any) -> WeightsEntry:
    digest = _HASH.search(weights.url)
    return {
        "tag": weights.name,
        "url": weights.url,
        "sha256_prefix": digest.group(1) if digest else None,
        "licence": weights.meta.get("license"),
        "top1": _number(weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")),
        "preprocessing": _preprocessing(weights.transforms()).to_dict(),
    }


def _preprocessing(transform: Any) -> zoo.Preprocessing:
    (crop,), (resize,) = transform.crop_size, transform.resize_size
    return zoo.Preprocessing(
        input_size=(3, crop, crop),
        resize_size=(resize, resize),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        resize="shorter",
    )


def _number(value: float | None) -> float | None:
    # torchvision states NaN where nothing was measured; JSON has no NaN.
    return None if value is None or math.isnan(value) else value


def _summary(architecture: str) -> str:
    """Return "model (paper)" from the first paragraph of the builder's docstring, or that paragraph as it is."""
    text = " ".join((models.get_model_builder(architecture).__doc__ or architecture).strip().split("\n\n")[0].split())
    match = _DOCUMENTATION.match(text)
    return f"{match['what']} ({match['paper']})" if match else text.rstrip(".")
