"""The processes of a run: what each is to do, and how they tell one another. A process that is alone is a group of one.

Every method but `share` is called by all processes, in the same order. `launch` says what the launcher told this
process, and `pulse` whether the others live.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from zoo.distributed.launch import Launch, launch
from zoo.distributed.pulse import ProcessLost, Pulse
from zoo.errors import Refused, ZooError, first_line, is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(minutes=30)
"""How long one operation may wait for a process that lives. One that does not live is found by its pulse."""
JOINING = timedelta(minutes=5)
"""How long processes wait for one another when a job begins."""
_SHORTEST, _LONGEST = 0.0005, 0.05
"""Seconds between two looks at whether all have arrived."""
_BUCKET = 32 << 20
"""Bytes that are added up at a time: while they are on their way, the next ones are put together."""
_Value = TypeVar("_Value")


class ProcessGroup:
    """A process that is alone: it does everything, and there is nobody to tell."""

    rank = 0
    """Its number."""
    count = 1
    """How many processes there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def processes_here(self) -> int:
        """How many of them share this machine."""
        return 1

    def first_here(self, work: Callable[[], _Value]) -> _Value:
        """What `work` gives, which the first process of every machine calls before the others do.

        For what is fetched: the others find it there.
        """
        return work()

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.count > 1

    def share(self, amount: int, rank: int | None = None) -> range:
        """This process's part of numbers 0 to `amount` - 1, or that of another `rank`; parts differ by one at most."""
        of = self.rank if rank is None else rank
        return range(amount * of // self.count, amount * (of + 1) // self.count)

    def meet(self) -> None:
        """Wait until every process is here. Raises ProcessLost, naming it, where one does not come any more."""

    def gather(self, value: _Value) -> list[_Value]:
        """Every process's value, by rank."""
        return [value]

    def send(self, value: _Value, source: int) -> _Value:
        """The value that process `source` has; what others give is not looked at."""
        return value

    def from_main(self, work: Callable[[], _Value]) -> _Value:
        """What `work` gives in process 0, which alone calls it. An error that it raises there is raised everywhere."""
        return work()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor, of any shape, up over all processes, in place: all then have the same bits."""

    def naming_the_lost(self) -> contextlib.AbstractContextManager[None]:
        """Inside, an operation that torch ends because another process was lost raises ProcessLost, which names it."""
        return contextlib.nullcontext()

    def remember(self, next_step: str) -> None:
        """Remember how the run goes on where another process is lost, for the message."""

    def run(self) -> contextlib.AbstractContextManager[None]:
        """Inside, a process that ends, or leaves by an error, ends all others."""
        return contextlib.nullcontext()


class Together(ProcessGroup):
    """A process among several, which talk through torch.distributed."""

    def __init__(self, found: Launch) -> None:
        """Join the others. Raises Refused where they do not come."""
        import torch
        import torch.distributed as dist
        from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

        self.launch = found
        self.rank, self.count = found.rank, found.count
        self._meetings = 0
        try:
            # The store itself, and not only what torch makes of it: meetings and the pulse go through it.
            store, _, _ = next(rendezvous("env://", timeout=JOINING))
            if not dist.is_initialized():
                if torch.cuda.is_available() and found.local_rank < torch.cuda.device_count():
                    torch.cuda.set_device(found.local_rank)
                both = torch.cuda.is_available() and dist.is_nccl_available()
                dist.init_process_group(
                    # One group for tensors of both kinds: `add_up` gets them from wherever the model is.
                    "cpu:gloo,cuda:nccl" if both else "gloo",
                    store=PrefixStore("zoo/group", store),
                    rank=found.rank,
                    world_size=found.count,
                    timeout=PATIENCE,
                )
            # What is no gradient lies in main memory, whatever the device is.
            self._objects = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE))
        except Exception as error:  # torch's own kinds, and plain RuntimeErrors
            raise Refused(
                f"{found.name.capitalize()} could not join the others: {error}\n"
                "Next: start all processes with the same command, on machines that reach MASTER_ADDR and MASTER_PORT; "
                "where a host name leads to the wrong network, GLOO_SOCKET_IFNAME names the right one."
            ) from error
        # Each a connection of its own: one that waits for a key keeps all other users of it waiting.
        self._store = PrefixStore("zoo/meet", store.clone())
        self.pulse = Pulse(PrefixStore("zoo/pulse", store.clone()), found)
        with self.naming_the_lost():
            dist.barrier(group=self._objects)
        self.pulse.begin()

    @property
    def processes_here(self) -> int:
        return self.launch.local_count

    def first_here(self, work: Callable[[], _Value]) -> _Value:
        first = self.launch.local_rank == 0
        value = work() if first else None
        self.meet()
        return cast("_Value", value) if first else work()

    def meet(self) -> None:
        # All processes come to the same meetings in the same order, so a count names them.
        key = f"{self._meetings}"
        self._meetings += 1
        wait = _SHORTEST
        with self.naming_the_lost():
            # Not a barrier of torch: nobody could leave it, or say why, once a process is lost.
            here = self._store.add(key, 1)
            while here < self.count:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST)
                self.pulse.check()
                here = self._store.add(key, 0)  # reads the count

    def gather(self, value: _Value) -> list[_Value]:
        import torch.distributed as dist

        # First, so that a process that is lost is named, and not waited for inside the operation.
        self.meet()
        found: list[_Value | None] = [None] * self.count
        with self.naming_the_lost():
            dist.all_gather_object(found, value, group=self._objects)
        return cast("list[_Value]", found)

    def send(self, value: _Value, source: int) -> _Value:
        import torch
        import torch.distributed as dist

        self.meet()
        box = [value if self.rank == source else None]
        with self.naming_the_lost():
            dist.broadcast_object_list(box, src=source, group=self._objects, device=torch.device("cpu"))
        return cast("_Value", box[0])

    def from_main(self, work: Callable[[], _Value]) -> _Value:
        if not self.is_main:
            error, value = self.send(cast("tuple[ZooError | None, _Value]", (None, None)), 0)
            if error is not None:
                raise error
            return value
        try:
            value = work()
        except ZooError as error:
            # Only an error that is meant for people. Any other ends this process, which the others learn by its pulse.
            self.send((_picklable(error), None), 0)
            raise
        self.send((None, value), 0)
        return value

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up, of any shape, in buckets of which the next is put together while one is on its way."""
        import torch
        import torch.distributed as dist

        with self.naming_the_lost(), torch.no_grad():
            begun = []
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                begun.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
            for bucket, flat, work in begun:
                assert work is not None, "an operation that was begun can be waited for"
                work.wait()
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def remember(self, next_step: str) -> None:
        self.pulse.remember(next_step)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        self.pulse.begin_run()
        try:
            yield
        except BaseException as error:
            # Ctrl-C and exits as well: whatever ends this process, the others would wait for it.
            self.pulse.tell("failed", _in_words(error))
            raise
        self.pulse.tell("done")

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        try:
            yield
        except ZooError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # a fault of this process, which tells the others when it ends
            # torch says that a connection was closed, not whose it was; within seconds the pulse does.
            who = self.pulse.wait_for_lost() or f"Another process of this run cannot be reached: {error}"
            raise ProcessLost(who) from error


def _in_words(error: BaseException) -> str:
    if isinstance(error, ZooError):
        return str(error)
    return f"Not enough memory: {first_line(error)}" if is_out_of_memory(error) else repr(error)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        # Of one dtype: put into one tensor, the numbers of another would be converted.
        if bucket and (held >= _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _picklable(error: ZooError) -> ZooError:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class with arguments of its own
        plain = ZooError(str(error))
        plain.exit_code, plain.code = error.exit_code, error.code
        return plain
    return error


_joined: list[Together] = []
_current: list[ProcessGroup] = []
_ALONE = ProcessGroup()


def joined() -> Together | None:
    """The group that this process has joined; None where it is alone, or has not joined yet."""
    return _joined[0] if _joined else None


def current() -> ProcessGroup:
    """The group that carries out what runs now; a group of one outside of `taking_part`."""
    return _current[-1] if _current else _ALONE


def join() -> ProcessGroup:
    """Join the processes that a launcher started with this one; a group of one where there are none.

    Raises Refused for variables that cannot be, or where the others do not come.
    """
    if not _joined:
        found = launch()
        if found is None:
            return _ALONE
        _joined.append(Together(found))
    return _joined[0]


@contextlib.contextmanager
def taking_part() -> Iterator[ProcessGroup]:
    """Inside, what this process does is a part of what all processes of its job do together."""
    group = join()
    _current.append(group)
    try:
        with group.run():
            yield group
    finally:
        _current.pop()
