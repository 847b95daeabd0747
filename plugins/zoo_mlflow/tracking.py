"""Events of a run as MLflow's. Needs mlflow: imported when the observer is built."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zoo

# Who tracks training on their own machine has not asked for anybody to be told of it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

NOTE = "mlflow.json"
"""In the run folder: which run of MLflow it is, so that one that goes on later is no second one."""
DATABASE, FILES, EXPERIMENT = "mlflow.db", "mlflow-files", "zoo"
_AT_ONCE, _LONGEST = 100, 500
"""MLflow's limits: parameters in a call, letters of a value that every version takes."""
_BUFFERED = 500
"""Metrics; a call takes 1,000."""


class MLflow:
    """Writes at the end of every epoch. Batches are counted over all stages as planned, and so are epochs."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._run = ""
        self._batches_before: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}
        self._metrics: list[Metric] = []
        # Of a run that goes on from its last checkpoint, what came after that comes again, to the same numbers.
        self._batches_there = self._epochs_there = 0

    def __call__(self, event: zoo.Event) -> None:
        """Write what one event holds."""
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
            self._client.set_tag(self._run, "zoo.stopped", event.reason[:_LONGEST])
            self._client.set_terminated(self._run, "KILLED")

    def _begin(self, event: zoo.RunStarted) -> None:
        batches = epochs = 0
        for stage in event.plan.stages:
            # As planned, so that a run that goes on later, or a stage that ends early, shifts nothing.
            self._batches_before[stage.settings.name] = batches
            self._epochs_before[stage.settings.name] = epochs
            batches, epochs = batches + stage.steps, epochs + stage.settings.epochs
        theirs = os.environ.get("MLFLOW_TRACKING_URI")
        runs = event.run.resolve().parent
        uri = theirs or f"sqlite:///{runs / DATABASE}"
        client = MlflowClient(tracking_uri=uri)
        run = _noted(event.run, uri, client) if event.resumed else None
        if run is None:
            run = _new_run(client, event, files=None if theirs else runs / FILES)
            (event.run / NOTE).write_text(json.dumps({"tracking_uri": uri, "run_id": run}) + "\n", "utf-8")
        else:
            client.update_run(run, status="RUNNING")
            self._batches_there = _last_step(client, run, "batch/loss")
            self._epochs_there = _last_step(client, run, "train/loss")
        self._client, self._run = client, run

    def _batch(self, event: zoo.BatchFinished) -> None:
        at = self._batches_before[event.stage] + event.step
        if at <= self._batches_there:
            return
        self._add("batch/loss", event.loss, at)
        for group, rate in event.rates.items():
            self._add(f"rate/{group}", rate, at)
        if len(self._metrics) >= _BUFFERED:
            self._write()

    def _epoch(self, event: zoo.EpochFinished) -> None:
        at = self._epochs_before[event.stage] + event.epoch
        if at <= self._epochs_there:
            return
        self._add("train/loss", event.train_loss, at)
        self._add("speed/images_per_second", event.images_per_second, at)
        for name, value in event.val.items():
            self._add(f"val/{name}", value, at)
        self._write()

    def _finish(self, event: zoo.RunFinished, client: MlflowClient) -> None:
        self._write()
        for name, value in event.result.metrics["val"].items():
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


def _noted(run: Path, uri: str, client: MlflowClient) -> str | None:
    """What was begun before the run was stopped; None where it is elsewhere or gone."""
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
    choices = [Param(name, value[:_LONGEST]) for name, value in _choices(plan)]
    for start in range(0, len(choices), _AT_ONCE):
        client.log_batch(run, params=choices[start : start + _AT_ONCE], synchronous=True)
    client.log_batch(run, tags=[RunTag("zoo.run", str(event.run.resolve()))], synchronous=True)
    client.log_dict(run, plan, "plan.json")
    return run


def _experiment(client: MlflowClient, files: Path | None) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=None if files is None else files.as_uri()))


def _choices(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What runs are told apart by: the settings, not what was derived or measured."""
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
