"""The observer `tensorboard`: writes curves, the plan and the confusion matrix into RUN/tensorboard.

It needs the package `tensorboard` (the extra of that name). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import zoo

MISSING = (
    "it needs the package tensorboard, which is not installed here.\nNext: pip install 'zoo-registry[tensorboard]'"
)


def _build() -> Callable[[zoo.Event], None]:
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise ImportError(MISSING)
    from zoo_tensorboard.writing import TensorBoard

    return TensorBoard()


@zoo.hookimpl
def zoo_observers() -> Iterable[zoo.ObserverSpec]:
    return [
        zoo.ObserverSpec(
            name="tensorboard",
            summary="Curves, the plan, the confusion matrix in RUN/tensorboard. To look: tensorboard --logdir RUN",
            build=_build,
        )
    ]
