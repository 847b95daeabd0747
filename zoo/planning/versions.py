"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = (
    "zoo-registry",
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "pluggy",
    "pydantic",
    "numpy",
    "pillow",
)


def versions(further: Iterable[str] = ()) -> dict[str, str]:
    """Python's version and those of the packages that matter, by distribution name; absent ones are left out.

    `further` are packages that matter where they are used.
    """
    found = {"python": platform.python_version()}
    for name in dict.fromkeys([*_DISTRIBUTIONS, *further]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
