from __future__ import annotations

import pytest
from zoo.distributed.group import ProcessGroup, current, join
from zoo.distributed.launch import Launch, launch
from zoo.errors import Refused

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}


def test_a_process_learns_its_place_from_its_launcher() -> None:
    assert launch(TORCHRUN) == Launch(rank=3, count=4, local_rank=1, local_count=2)
    assert launch({**TORCHRUN, **ACCELERATE, "ACCELERATE_USE_FSDP": "false"}) is not None


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"WORLD_SIZE": "2"},  # left over from something else: no launcher sets it without a rank
        {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"},
        ACCELERATE,  # accelerate launch --num_processes 1
    ],
)
def test_a_process_without_others_is_alone(alone: dict[str, str]) -> None:
    assert launch(alone) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RANK": "4"}, "cannot be: RANK=4, WORLD_SIZE=4"),
        ({"RANK": "one"}, "RANK='one' is no number"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR does not say where they meet"),
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "--precision bfloat16 after zoo finetune"),
    ],
)
def test_what_cannot_be_or_cannot_be_done_is_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(Refused, match="Next: ") as refused:
        launch({**TORCHRUN, **wrong})
    assert said in str(refused.value)


def test_accelerate_that_was_asked_for_several_and_started_one_is_refused() -> None:
    # What `accelerate launch --cpu --num_processes 2` sets.
    with pytest.raises(Refused, match=r"(?s)started this one alone.*torchrun --nproc-per-node 2") as refused:
        launch({**ACCELERATE, "ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    assert refused.value.exit_code == 2


def test_a_process_that_is_alone_is_a_group_of_one() -> None:
    assert join() is current() and not current().several
    assert current().gather(7) == [7] and current().from_main(lambda: 8) == 8


class _Three(ProcessGroup):
    count = 3


@pytest.mark.parametrize("amount", [0, 1, 2, 3, 4, 100])
def test_shares_are_a_partition_in_order_and_even(amount: int) -> None:
    shares = [_Three().share(amount, rank) for rank in range(3)]
    assert [number for share in shares for number in share] == list(range(amount))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
