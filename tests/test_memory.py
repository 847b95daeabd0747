"""Batches and memory: nothing is lost, nothing is counted twice, nothing ends in a traceback."""

from __future__ import annotations

import pytest
import torch
import zoo
from zoo.planning.batches import batch_sizes
from zoo.training import loop
from zoo.training.memory import memory_suffices


@pytest.mark.parametrize("images", range(1, 70))
def test_batches_hold_every_image_and_none_is_alone(images: int) -> None:
    sizes = batch_sizes(images, 8)
    assert sum(sizes) == images and (min(sizes) > 1 or images == 1)


def test_a_step_that_is_repeated_leaves_running_statistics_as_one_step_does() -> None:
    model = zoo.create_model("timm/test_resnet", classes=2, weights="random")
    model.freeze_all_but(["head", *model.groups.names])
    model.train()
    restore = loop._restorer(model, torch.device("cpu"))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    model(torch.randn(4, 3, 64, 64))
    assert any(not torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    restore()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(state, torch.get_rng_state())


def test_memory_that_runs_out_where_nothing_can_be_halved_is_a_device_error() -> None:
    with pytest.raises(zoo.ZooError, match="Memory does not suffice"), memory_suffices("test"):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="another"), memory_suffices("test"):
        raise RuntimeError("another fault")
