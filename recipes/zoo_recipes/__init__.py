"""The bundled recipes, one TOML file each beside this module."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

import zoo


@zoo.hookimpl
def zoo_recipes() -> Iterable[zoo.RecipeSpec]:
    found = sorted(
        (each for each in files(__name__).iterdir() if each.name.endswith(".toml")), key=lambda each: each.name
    )
    return [zoo.recipe_from_toml(each.read_text("utf-8"), name=each.name.removesuffix(".toml")) for each in found]
