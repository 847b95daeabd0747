"""Installs real distributions into a folder: modules and the metadata that `importlib.metadata` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HEAD = """
import zoo

def build(shape, classes, options):
    from torch import nn
    return nn.Linear(shape.pooled, classes)

@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name={name!r}, summary="A head for the test.", build=build)]
"""

PROVIDER = """
import zoo

CATALOGUE = {catalogue!r}
PREPROCESSING = zoo.Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)

def build(*, tag, state):
    raise NotImplementedError

def resolve(architecture):
    weights = tuple(
        zoo.WeightsSpec(tag=tag, preprocessing=PREPROCESSING, source=zoo.HubFile(repo_id="a/b"))
        for tag in CATALOGUE[architecture]
    )
    return zoo.BackboneSpec(
        provider={name!r}, architecture=architecture, build=build, preprocessing=PREPROCESSING, weights=weights
    )

@zoo.hookimpl
def zoo_backbones():
    return [zoo.BackboneProvider(name={name!r}, summary="", architectures=lambda: CATALOGUE, resolve=resolve)]
"""

RECIPE = '''
import zoo

TEXT = """
summary = "A recipe for the test."
[[stages]]
name = "head"
train = ["head"]
epochs = 1
lr = 1e-3
"""

@zoo.hookimpl
def zoo_recipes():
    return [zoo.recipe_from_toml(TEXT, name={name!r})]
'''


def head(name: str) -> str:
    """Source of a plugin with one head."""
    return HEAD.format(name=name)


def provider(name: str, catalogue: Mapping[str, tuple[str, ...]]) -> str:
    """Source of a plugin with one provider of backbones."""
    return PROVIDER.format(name=name, catalogue=dict(catalogue))


def recipe(name: str) -> str:
    """Source of a plugin with one recipe."""
    return RECIPE.format(name=name)


def install(folder: Path, distribution: str, source: str, *, plugin: str = "", version: str = "2.1") -> str:
    """Put a distribution with one plugin into `folder`, under the entry-point name `plugin` -> its module's name."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    register(folder, distribution, {plugin or module: module}, version=version)
    return module


def register(folder: Path, distribution: str, points: Mapping[str, str], *, version: str = "2.1") -> None:
    """Write a distribution's metadata, with these entry points of the group `zoo`."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo]", *lines]) + "\n")
