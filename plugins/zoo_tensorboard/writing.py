"""Events of a run as TensorBoard's. Needs torch and tensorboard: imported when the observer is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import zoo
from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Writes while the run goes on. Batches are counted over all stages as planned, and so are epochs."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._batches_before: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}

    def __call__(self, event: zoo.Event) -> None:
        """Write what one event holds."""
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
            # As planned, so that a run that goes on later, or a stage that ends early, shifts nothing.
            self._batches_before[stage.settings.name] = batches
            self._epochs_before[stage.settings.name] = epochs
            batches, epochs = batches + stage.steps, epochs + stage.settings.epochs
        self._writer = SummaryWriter(log_dir=str(event.run / FOLDER))
        self._writer.add_text("plan", _as_code(event.plan.model_dump(mode="json")), 0)

    def _batch(self, event: zoo.BatchFinished) -> None:
        at = self._batches_before[event.stage] + event.step
        self._writer.add_scalar("batch/loss", event.loss, at)
        for group, rate in event.rates.items():
            self._writer.add_scalar(f"rate/{group}", rate, at)

    def _epoch(self, event: zoo.EpochFinished) -> None:
        at = self._epochs_before[event.stage] + event.epoch
        scalars = {"train/loss": event.train_loss, "speed/images_per_second": event.images_per_second}
        scalars |= {f"val/{name}": value for name, value in event.val.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, at)
        # Whoever watches sees whole epochs.
        self._writer.flush()

    def _finish(self, event: zoo.RunFinished) -> None:
        image = zoo.draw_confusion(event.confusion, event.result.classes)
        self._writer.add_image("val/confusion", image, 0, dataformats="HWC")
        self._writer.add_text("result", _as_code(event.result.content), 0)
        self._writer.close()


def _as_code(content: Mapping[str, Any]) -> str:
    """JSON as TensorBoard shows text word for word: Markdown, indented."""
    return "\n".join(f"    {line}" for line in json.dumps(content, indent=2, ensure_ascii=False).splitlines())
