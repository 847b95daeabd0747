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
    names = dict.fromkeys([*_DISTRIBUTIONS, *further])
    installed = {name: found for name in names if (found := installed_version(name)) is not None}
    return {"python": platform.python_version(), **installed}


def installed_version(name: str) -> str | None:
    """The version of a distribution, from its metadata: asking torch itself would import it. None if not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
