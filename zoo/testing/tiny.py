"""The tiny backbone, as a provider writes it; also the plugin `testing`, which the checks of recipes run on.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from zoo.hooks import hookimpl
from zoo.preprocessing import Preprocessing
from zoo.specs import Backbone, BackboneProvider, BackboneSpec, FeatureShape, Group

if TYPE_CHECKING:
    from torch import Tensor, nn

PROVIDER, ARCHITECTURE = "testing", "tiny"
SIDE = 32
WIDTH = 24


def _build(
    *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None = None
) -> Backbone:
    from zoo.model.weights import load_weights
    from zoo.testing.tiny_module import Tiny

    module = Tiny(WIDTH)
    if state is not None:
        load_weights(module, state, architecture=SPEC.name)
    return Backbone(
        module=module,
        shape=FeatureShape(pooled=WIDTH, map=WIDTH),
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
