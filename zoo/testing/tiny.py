"""The tiny backbone and its images. This module is also the plugin `testing`: recipes are checked on it.

It is written as a third-party provider would be. Importing it imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.registry.hooks import hookimpl
from zoo.specs.backbone import Backbone, BackboneProvider, BackboneSpec, FeatureShape, Group
from zoo.specs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

PROVIDER, ARCHITECTURE = "testing", "tiny"
SIDE = 32
"""Height and width of its images."""
WIDTH = 24
"""Width of its pooled features, and channels of its map."""


def _build(
    *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None = None
) -> Backbone:
    from zoo.testing.tiny_module import Tiny
    from zoo.weights.state import load_weights

    module = Tiny(WIDTH)
    if state is not None:
        load_weights(module, state, architecture=SPEC.name)
    return Backbone(
        module=module,
        shape=FeatureShape(pooled=WIDTH, map=WIDTH),
        # From input to output, as recipes address them.
        groups=tuple(Group(name=name, members=(name,)) for name in ("stem", "stage1", "stage2", "stage3", "norm")),
        map=_map,
    )


def _map(module: nn.Module, images: Tensor) -> Tensor:
    from zoo.testing.tiny_module import Tiny

    assert isinstance(module, Tiny)
    return module.map(images)


SPEC = BackboneSpec(
    provider=PROVIDER,
    architecture=ARCHITECTURE,
    build=_build,
    preprocessing=Preprocessing(
        input_size=(3, SIDE, SIDE), resize_size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    ),
    summary="A backbone of five groups for tests.",
)


def _resolve(architecture: str) -> BackboneSpec:
    if architecture != ARCHITECTURE:
        raise LookupError(architecture)
    return SPEC


@hookimpl
def zoo_backbones() -> Iterable[BackboneProvider]:
    return [
        BackboneProvider(
            name=PROVIDER, summary="For tests.", architectures=lambda: {ARCHITECTURE: ()}, resolve=_resolve
        )
    ]


def draw(folder: Path, *, classes: int, train: int, val: int) -> Path:
    """Draw `train` and `val` images per class, as zoo's sample set draws them, into a new folder, and return it."""
    from zoo.data.sample import sample_image

    folder.mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        for index in range(classes):
            class_folder = folder / split / f"class{index}"
            class_folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, classes, split, number).save(class_folder / f"{number}.png")
    return folder
