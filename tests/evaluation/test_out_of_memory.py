"""Batches and out of memory: every image is in one batch, a repeated step leaves no trace, errors are clean."""

from __future__ import annotations

import pytest
import torch
import zoo
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.planning.batch_sizes import batch_sizes
from zoo.training import first_look


@pytest.mark.parametrize("images", range(1, 70))
def test_batches_hold_every_image_once_and_none_has_one_image(images: int) -> None:
    sizes = batch_sizes(images, 8)
    assert sum(sizes) == images and (min(sizes) > 1 or images == 1)


def test_a_step_that_is_repeated_leaves_running_statistics_as_one_step_does() -> None:
    model = zoo.create_model("timm/test_resnet", classes=2, weights="random")
    model.freeze_all_but(["head", *model.groups.names])
    model.train()
    restore = first_look.undo_step(model, torch.device("cpu"))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    model(torch.randn(4, 3, 64, 64))
    assert any(not torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    restore()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(state, torch.get_rng_state())


def test_out_of_memory_in_work_that_cannot_be_split_is_a_device_error() -> None:
    with pytest.raises(zoo.ZooError, match="Not enough memory"), out_of_memory_as_error("test"):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="another"), out_of_memory_as_error("test"):
        raise RuntimeError("another fault")
