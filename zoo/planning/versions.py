"""Versions of what a result depends on."""

from __future__ import annotations

import platform
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


def versions() -> dict[str, str]:
    """Python's version and those of the packages that matter, by distribution name; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
