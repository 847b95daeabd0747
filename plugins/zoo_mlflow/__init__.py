"""The observer `mlflow`: tracks a run in a database beside the run folders, or at MLFLOW_TRACKING_URI.

It needs the packages of the extra `mlflow`, but no account and no server. Nothing here imports torch or mlflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import zoo

NEEDED = ("mlflow", "sqlalchemy", "alembic")
"""The package mlflow-skinny provides the first; its database needs the other two."""


def _build() -> Callable[[zoo.Event], None]:
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"it needs {' and '.join(missing)}, not installed here.\nNext: pip install 'zoo-registry[mlflow]'"
        )
    from zoo_mlflow.tracking import MLflow

    return MLflow()


@zoo.hookimpl
def zoo_observers() -> Iterable[zoo.ObserverSpec]:
    return [
        zoo.ObserverSpec(
            name="mlflow",
            summary="Tracks choices, curves, scores, the confusion matrix in runs/mlflow.db, for MLflow's pages",
            build=_build,
        )
    ]
