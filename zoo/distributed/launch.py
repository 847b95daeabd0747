"""What a launcher says about this process. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import Refused

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PLACE = ("MASTER_ADDR", "MASTER_PORT")
_EXAMPLE = "torchrun --nproc-per-node 2 --no-python zoo finetune ..."
_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""Set by every `accelerate launch`."""
_NOT_ZOOS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What a configuration of Accelerate may ask for, and a run of zoo does not do."""


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that a launcher started for one job."""

    rank: int
    """Its number, counted from 0 over all machines."""
    count: int
    """How many there are on all machines; at least 2."""
    local_rank: int
    """Its number on this machine, counted from 0."""
    local_count: int
    """How many there are on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and prints."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"process {self.rank} of {self.count}"


def launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What `torchrun` or `accelerate launch` says about this process; None where it is alone.

    Args:
        environment: Default: that of this process.

    Raises:
        Refused: What the variables say cannot be, or cannot be done.
    """
    given = os.environ if environment is None else environment
    if "RANK" not in given or "WORLD_SIZE" not in given:
        _refuse_one_for_many(given)
        return None
    numbers = {name: _number(given, name) for name in _NAMES if name in given}
    rank, count = numbers["RANK"], numbers["WORLD_SIZE"]
    # torchrun sets them for a single process as well.
    if count <= 1:
        return None
    # A launcher that does not tell numbers on a machine is taken to use one machine.
    found = Launch(rank, count, numbers.get("LOCAL_RANK", rank), numbers.get("LOCAL_WORLD_SIZE", count))
    # Before anything is joined: a wrong number would have all others wait for minutes.
    if not (0 <= found.rank < found.count and 0 <= found.local_rank < found.local_count <= found.count):
        said = ", ".join(f"{name}={given[name]}" for name in numbers)
        raise Refused(f"The launcher's variables cannot be: {said}.\nNext: {_EXAMPLE}")
    missing = [name for name in _PLACE if not given.get(name)]
    if missing:
        raise Refused(
            f"WORLD_SIZE={count} says that there are several processes, but {' and '.join(missing)} does not say where "
            f"they meet.\nNext: {_EXAMPLE}; to run this one alone, unset RANK and WORLD_SIZE."
        )
    _refuse_what_accelerate_asks(given)
    return found


def _number(given: Mapping[str, str], name: str) -> int:
    try:
        return int(given[name])
    except ValueError:
        raise Refused(f"{name}={given[name]!r} is no number; a launcher sets it.\nNext: {_EXAMPLE}") from None


def _refuse_one_for_many(given: Mapping[str, str]) -> None:
    # Accelerate sets a meeting place where several processes were asked for. For CPUs it leaves starting them to
    # mpirun, and without that it starts one, without a word.
    if _BY_ACCELERATE in given and given.get("MASTER_ADDR"):
        raise Refused(
            "accelerate launch was asked for several processes and started this one alone: it starts several on GPUs, "
            f"and on processors leaves that to mpirun.\nNext: {_EXAMPLE}"
        )


def _refuse_what_accelerate_asks(given: Mapping[str, str]) -> None:
    asked = [name for variable, name in _NOT_ZOOS.items() if given.get(variable, "").lower() in ("1", "true")]
    if asked:
        raise Refused(
            f"accelerate launch asks for {asked[0]}, and zoo cuts batches into shares by itself, and with "
            "--shard-backbone the layers that train into parts.\n"
            f"Next: accelerate launch --multi_gpu --num_processes {given['WORLD_SIZE']} -m zoo finetune ..."
        )
    precision = given.get(_BY_ACCELERATE, "no").lower()
    if precision != "no":
        # Of their precisions zoo has this one; fp16 and fp8 have no counterpart.
        theirs = {"bf16": "bfloat16"}.get(precision)
        ours = f"--precision {theirs}" if theirs else "--precision bfloat16 or float32"
        raise Refused(
            f"accelerate launch asks for mixed precision {precision!r}; what a run computes in is zoo's own option.\n"
            f"Next: accelerate launch --mixed_precision no ..., and {ours} after zoo finetune."
        )
