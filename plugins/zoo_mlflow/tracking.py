"""Write the events of a run to MLflow. This module needs mlflow: it is imported when the observer is built."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zoo

# Before mlflow is imported: tracking a run locally is no consent to telemetry.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

NOTE = "mlflow.json"
"""File in the run folder that names MLflow's run, so that a resumed run continues it and creates no second one."""
DATABASE, FILES, EXPERIMENT = "mlflow.db", "mlflow-files", "zoo"
_MAX_PARAMS, _MAX_LENGTH = 100, 500
"""MLflow's limits: parameters per call, and characters of a value that every version accepts."""
_MAX_BUFFERED = 500
"""Metrics to collect before they are written. MLflow accepts 1,000 per call."""


class MLflow:
    """Writes at the end of every epoch. Batches and epochs are counted over all stages, as planned."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._run = ""
        self._batches_before: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}
        self._metrics: list[Metric] = []
        # A resumed run repeats the batches after its last checkpoint, with equal numbers: those are not written again.
        self._last_batch = self._last_epoch = 0

    def __call__(self, event: zoo.Event) -> None:
        """Record one event."""
        if isinstance(event, zoo.RunStarted):
            self._begin(event)
        elif self._client is None:
            return
        elif isinstance(event, zoo.BatchFinished):
            self._batch(event)
        elif isinstance(event, zoo.EpochFinished):
            self._epoch(event)
        elif isinstance(event, zoo.RunFinished):
            self._finish(event, self._client)
        elif isinstance(event, zoo.RunStopped):
            self._write()
            self._client.set_tag(self._run, "zoo.stopped", event.reason[:_MAX_LENGTH])
            self._client.set_terminated(self._run, "KILLED")

    def _begin(self, event: zoo.RunStarted) -> None:
        batches = epochs = 0
        for stage in event.plan.stages:
            # Planned counts: a resumed run, or a stage that stops early, does not shift the steps of later stages.
            self._batches_before[stage.settings.name] = batches
            self._epochs_before[stage.settings.name] = epochs
            batches, epochs = batches + stage.steps, epochs + stage.epochs
        configured_uri = os.environ.get("MLFLOW_TRACKING_URI")
        runs = event.run.resolve().parent
        uri = configured_uri or f"sqlite:///{runs / DATABASE}"
        client = MlflowClient(tracking_uri=uri)
        run = _run_to_continue(event.run, uri, client) if event.resumed else None
        if run is None:
            run = _new_run(client, event, files=None if configured_uri else runs / FILES)
            (event.run / NOTE).write_text(json.dumps({"tracking_uri": uri, "run_id": run}) + "\n", "utf-8")
        else:
            client.update_run(run, status="RUNNING")
            self._last_batch = _last_step(client, run, "batch/loss")
            self._last_epoch = _last_step(client, run, "train/loss")
        self._client, self._run = client, run

    def _batch(self, event: zoo.BatchFinished) -> None:
        step = self._batches_before[event.stage] + event.step
        if step <= self._last_batch:
            return
        self._add("batch/loss", event.loss, step)
        for group, rate in event.rates.items():
            self._add(f"rate/{group}", rate, step)
        if len(self._metrics) >= _MAX_BUFFERED:
            self._write()

    def _epoch(self, event: zoo.EpochFinished) -> None:
        step = self._epochs_before[event.stage] + event.epoch
        if step <= self._last_epoch:
            return
        self._add("train/loss", event.train_loss, step)
        self._add("speed/images_per_second", event.images_per_second, step)
        for name, value in event.val.items():
            self._add(f"val/{name}", value, step)
        self._write()

    def _finish(self, event: zoo.RunFinished, client: MlflowClient) -> None:
        self._write()
        metrics = event.result.metrics
        for name, value in metrics.get("val", metrics.get("out_of_fold", {})).items():
            client.log_metric(self._run, f"result/{name}", value)
        client.log_image(self._run, zoo.draw_confusion(event.confusion, event.result.classes), "confusion.png")
        client.log_dict(self._run, dict(event.result.content), "result.json")
        client.set_tag(self._run, "zoo.artefact", str(event.result.artefact.resolve()))
        client.set_tag(self._run, "zoo.proof", event.result.proof)
        client.set_terminated(self._run, "FINISHED")

    def _add(self, name: str, value: float, step: int) -> None:
        self._metrics.append(Metric(name, value, int(time.time() * 1000), step))

    def _write(self) -> None:
        if self._client is not None and self._metrics:
            self._client.log_batch(self._run, metrics=self._metrics, synchronous=True)
            self._metrics = []


def _run_to_continue(run: Path, uri: str, client: MlflowClient) -> str | None:
    """Return the id of MLflow's run from before the interruption, or None if it is in another database or deleted."""
    try:
        note = json.loads((run / NOTE).read_text("utf-8"))
        if note["tracking_uri"] != uri:
            return None
        return str(client.get_run(note["run_id"]).info.run_id)
    except (OSError, ValueError, KeyError, TypeError, MlflowException):
        return None


def _last_step(client: MlflowClient, run: str, metric: str) -> int:
    return max((point.step for point in client.get_metric_history(run, metric)), default=0)


def _new_run(client: MlflowClient, event: zoo.RunStarted, *, files: Path | None) -> str:
    plan = event.plan.model_dump(mode="json")
    experiment = _experiment(client, files)
    run = str(client.create_run(experiment, run_name=event.run.name).info.run_id)
    choices = [Param(name, value[:_MAX_LENGTH]) for name, value in _choices(plan)]
    for start in range(0, len(choices), _MAX_PARAMS):
        client.log_batch(run, params=choices[start : start + _MAX_PARAMS], synchronous=True)
    client.log_batch(run, tags=[RunTag("zoo.run", str(event.run.resolve()))], synchronous=True)
    client.log_dict(run, plan, "plan.json")
    return run


def _experiment(client: MlflowClient, files: Path | None) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(client.create_experiment(name, artifact_location=None if files is None else files.as_uri()))


def _choices(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that distinguish runs, as (name, value), without derived or measured values."""
    for name in ("backbone", "weights", "head", "data"):
        for key, value in plan[name].items():
            if value is None or isinstance(value, (str, int, float, bool)):
                yield f"{name}.{key}", str(value)
    for name in ("recipe", "seed", "precision", "device", "keep"):
        if name in plan:
            yield name, str(plan[name])
    for stage in plan["stages"]:
        settings = stage["settings"]
        for key, value in settings.items():
            if key != "name" and value not in (None, [], {}):
                yield f"stages.{settings['name']}.{key}", value if isinstance(value, str) else json.dumps(value)
