"""A moving average of the weights while a stage trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.model.model import ZooModel


class Average:
    """Exponential, with a decay for every step, by torch's AveragedModel; running statistics are the last ones."""

    def __init__(self, model: ZooModel, decay: float) -> None:
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    @property
    def model(self) -> ZooModel:
        """The model with the averages as its weights."""
        return cast("ZooModel", self._averaged.module)

    def update(self, model: ZooModel) -> None:
        """Take a step's weights in; the first ones are copied."""
        self._averaged.update_parameters(model)

    def state(self, names: Collection[str]) -> dict[str, Tensor]:
        """The averages of these parameters and buffers, by full name, and `steps`: how many were taken in."""
        state = self.model.state_dict()
        return {name: state[name] for name in names if name in state} | {"steps": self._averaged.n_averaged}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                (self._averaged.n_averaged if name == "steps" else own[name]).copy_(tensor)


def make_average(model: ZooModel, decay: float) -> Average | None:
    """None for a decay of 0."""
    return Average(model, decay) if decay else None
