"""What an error of one process is told as: its own fault, or the loss of another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from zoo.distributed.group import ProcessLost, Together
from zoo.errors import DeviceError
from zoo.evaluation.out_of_memory import out_of_memory_as_error


@pytest.fixture
def group() -> Together:
    """A process whose pulse says that another one is gone."""
    alone = SimpleNamespace(pulse=SimpleNamespace(wait_for_lost=lambda: "Process 1 of 2 is gone."))
    return cast("Together", alone)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), torch.OutOfMemoryError),
        (DeviceError("Not enough memory for one image at a time."), DeviceError),
        (MemoryError(), MemoryError),
        (RuntimeError("Connection closed by peer"), ProcessLost),
    ],
)
def test_out_of_memory_is_not_told_as_a_lost_process(group: Any, raised: Exception, told: type[Exception]) -> None:
    with pytest.raises(told), Together.naming_the_lost(group):
        raise raised


def test_memory_of_a_cpu_that_ran_out_is_no_lost_process_and_the_others_hear_of_it(group: Any) -> None:
    """On a CPU torch raises a plain RuntimeError, as it does where a connection is closed."""
    told: list[str] = []
    group.pulse.begin_run, group.pulse.tell = lambda: None, lambda *words: told.extend(words)
    everything = 1 << 55
    with (
        pytest.raises(DeviceError, match=r"Not enough memory \(evaluation of test\): .*\nNext: free memory, "),
        Together.run(group),
        out_of_memory_as_error("evaluation of test"),
        Together.naming_the_lost(group),
    ):
        torch.empty(everything)
    with pytest.raises(RuntimeError), Together.run(group):
        torch.empty(everything)
    assert told[0] == told[2] == "failed" and told[1].startswith("Not enough memory (evaluation of test): ")
    assert told[3].startswith("Not enough memory: ") and "Traceback" not in told[3]


def test_a_process_that_is_lost_is_named(group: Any) -> None:
    with pytest.raises(ProcessLost, match="Process 1 of 2 is gone"), Together.naming_the_lost(group):
        raise RuntimeError("Connection closed by peer")
