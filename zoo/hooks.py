"""The whole extension surface: a plugin is a module with any of these functions, marked with `zoo.hookimpl`.

Each takes nothing and returns descriptions; the core validates, attributes and stores them. A plugin module must be
light: what needs torch is imported inside the functions that build.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zoo.recipes import RecipeSpec
    from zoo.specs import BackboneProvider, DataSourceSpec, HeadSpec, ObserverSpec

PROJECT = "zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_backbones() -> Iterable[BackboneProvider]:  # type: ignore[empty-body]
    """Sources of backbones."""


@hookspec
def zoo_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """Heads."""


@hookspec
def zoo_recipes() -> Iterable[RecipeSpec]:  # type: ignore[empty-body]
    """Freezing recipes; `zoo.recipe_from_toml` makes one from a file's text."""


@hookspec
def zoo_observers() -> Iterable[ObserverSpec]:  # type: ignore[empty-body]
    """Observers of training, for runs that ask for them by name."""


@hookspec
def zoo_data_sources() -> Iterable[DataSourceSpec]:  # type: ignore[empty-body]
    """Ways in which labelled images are kept, beside class folders."""
