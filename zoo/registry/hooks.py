"""The whole extension surface: a plugin is a module with any of these functions, marked with `zoo.hookimpl`.

A hook takes nothing and returns specs. The core validates them and records which plugin they came from. A plugin module
must be light: it imports torch only inside the functions that build something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zoo.events import ObserverSpec
    from zoo.specs.backbone import BackboneProvider
    from zoo.specs.data import DataSourceSpec
    from zoo.specs.head import HeadSpec
    from zoo.specs.recipe import RecipeSpec

PROJECT = "zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_backbones() -> Iterable[BackboneProvider]:  # type: ignore[empty-body]
    """Return providers of backbones."""


@hookspec
def zoo_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """Return heads."""


@hookspec
def zoo_recipes() -> Iterable[RecipeSpec]:  # type: ignore[empty-body]
    """Return freezing recipes. `zoo.recipe_from_toml` makes one from a file's text."""


@hookspec
def zoo_observers() -> Iterable[ObserverSpec]:  # type: ignore[empty-body]
    """Return observers of training, for runs that ask for them by name."""


@hookspec
def zoo_data_sources() -> Iterable[DataSourceSpec]:  # type: ignore[empty-body]
    """Return data sources: ways to store labelled images, beside class folders."""
