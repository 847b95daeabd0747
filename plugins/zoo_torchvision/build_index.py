"""Writes `index.json` from the installed torchvision: `python -m zoo_torchvision.build_index`, a minute or two."""

from __future__ import annotations

import json
import math
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import zoo
from torchvision import models

from zoo_torchvision import spec
from zoo_torchvision.index import Architecture, Index, Weights

_PATH = Path(__file__).with_name("index.json")
_HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")
# "Constructs a ConvNeXt Tiny model architecture from the `A ConvNet for the 2020s <address>`_ paper."
_DOCUMENTATION = re.compile(
    r"(?:Constructs an? )?(?P<what>.+?)(?: model)?(?: architecture)?,? "
    r"(?:from|as described in)(?: the)? `(?P<paper>.+?) <http"
)


def names() -> list[str]:
    """The classification architectures of the installed torchvision."""
    listed: list[str] = models.list_models(module=models)
    return sorted(listed)


def describe(name: str) -> Architecture:
    """What torchvision says of an architecture; nothing is built."""
    return {
        "summary": _summary(name),
        "facts": None,
        "weights": [_describe_weights(each) for each in _weights_of(name)],
    }


def measured(name: str) -> Architecture:
    """The same with what building tells; on the meta device."""
    described = describe(name)
    return {**described, "facts": zoo.measure(spec(name, described)).to_dict()}


def build_index() -> Index:
    """The whole index of the installed torchvision."""
    # Without the local part: a build for another accelerator has the same models.
    version = metadata.version("torchvision").partition("+")[0]
    return {"torchvision": version, "architectures": {name: measured(name) for name in names()}}


def to_text(index: Index) -> str:
    """JSON with one line per architecture: small, and a change shows where it is."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(index["architectures"].items())]
    body = ",\n".join(lines)
    return f'{{"torchvision": {json.dumps(index["torchvision"])}, "architectures": {{\n{body}\n}}}}\n'


def _weights_of(name: str) -> list[Any]:
    known = models.get_model_weights(name)
    return sorted(known, key=lambda weights: weights is not known.DEFAULT)


def _describe_weights(weights: Any) -> Weights:
    named = _HASH.search(weights.url)
    return {
        "tag": weights.name,
        "url": weights.url,
        "sha256_prefix": named.group(1) if named else None,
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
    """JSON has no NaN, which torchvision states where nothing was measured."""
    return None if value is None or math.isnan(value) else value


def _summary(name: str) -> str:
    text = " ".join((models.get_model_builder(name).__doc__ or name).strip().split("\n\n")[0].split())
    found = _DOCUMENTATION.match(text)
    return f"{found['what']} ({found['paper']})" if found else text.rstrip(".")


if __name__ == "__main__":
    _PATH.write_text(to_text(build_index()), encoding="utf-8")
