"""Versions of what a result depends on. Nothing here imports torch."""

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
    """The versions of Python and of the packages that results depend on, by distribution name.

    `further` names packages that matter only where they are used. Packages that are not installed are left out.
    """
    found = {"python": platform.python_version()}
    for name in dict.fromkeys([*_DISTRIBUTIONS, *further]):
        try:
            # As installed, from the metadata: asking torch itself would import it.
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
