"""Write the events of a run for TensorBoard. This module needs torch: it is imported when the observer is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import zoo
from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Writes during the run. Batches and epochs are counted over all stages, as planned."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._batches_before: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}

    def __call__(self, event: zoo.Event) -> None:
        """Record one event."""
        if isinstance(event, zoo.RunStarted):
            self._begin(event)
        elif self._writer is None:
            return
        elif isinstance(event, zoo.BatchFinished):
            self._batch(event)
        elif isinstance(event, zoo.EpochFinished):
            self._epoch(event)
        elif isinstance(event, zoo.RunFinished):
            self._finish(event)
        elif isinstance(event, zoo.RunStopped):
            self._writer.close()

    def _begin(self, event: zoo.RunStarted) -> None:
        batches = epochs = 0
        for stage in event.plan.stages:
            # Planned counts: a resumed run, or a stage that stops early, does not shift the steps of later stages.
            self._batches_before[stage.settings.name] = batches
            self._epochs_before[stage.settings.name] = epochs
            batches, epochs = batches + stage.steps, epochs + stage.epochs
        self._writer = SummaryWriter(log_dir=str(event.run / FOLDER))
        self._writer.add_text("plan", _as_code(event.plan.model_dump(mode="json")), 0)

    def _batch(self, event: zoo.BatchFinished) -> None:
        step = self._batches_before[event.stage] + event.step
        self._writer.add_scalar("batch/loss", event.loss, step)
        for group, rate in event.rates.items():
            self._writer.add_scalar(f"rate/{group}", rate, step)

    def _epoch(self, event: zoo.EpochFinished) -> None:
        step = self._epochs_before[event.stage] + event.epoch
        scalars = {"train/loss": event.train_loss, "speed/images_per_second": event.images_per_second}
        scalars |= {f"val/{name}": value for name, value in event.val.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        # So that TensorBoard shows every finished epoch at once.
        self._writer.flush()

    def _finish(self, event: zoo.RunFinished) -> None:
        image = zoo.draw_confusion(event.confusion, event.result.classes)
        self._writer.add_image("val/confusion", image, 0, dataformats="HWC")
        self._writer.add_text("result", _as_code(event.result.content), 0)
        self._writer.close()


def _as_code(content: Mapping[str, Any]) -> str:
    """Return JSON as an indented Markdown block, which TensorBoard shows verbatim."""
    return "\n".join(f"    {line}" for line in json.dumps(content, indent=2, ensure_ascii=False).splitlines())
