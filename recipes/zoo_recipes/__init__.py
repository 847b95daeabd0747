"""The bundled recipes: the TOML files beside this module, each named after its recipe."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

import zoo


@zoo.hookimpl
def zoo_recipes() -> Iterable[zoo.RecipeSpec]:
    resources = sorted(files(__name__).iterdir(), key=lambda resource: resource.name)
    return [
        zoo.recipe_from_toml(resource.read_text("utf-8"), name=resource.name.removesuffix(".toml"))
        for resource in resources
        if resource.name.endswith(".toml")
    ]
