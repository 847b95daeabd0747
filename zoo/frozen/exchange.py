"""Rows that several processes computed, each its share of the blocks: every one gets all of them.

Where the processes see one cache folder, a block that one of them wrote is read by the others. Where they do not, as on
machines that share no disk, it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo.distributed.group import ProcessGroup
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import Block, RowBlock


class Exchange:
    """Gives every process the blocks of all."""

    def __init__(
        self, group: ProcessGroup, cache: FeatureCache, subject: CacheKey, kept: Callable[[str, Block], RowBlock]
    ) -> None:
        """`kept(key, block)`: puts a block that was sent where this process keeps blocks."""
        self._group = group
        self._cache = cache
        self._subject = subject
        self._kept = kept

    def of_all(self, own_keys: Sequence[str], own: Sequence[RowBlock | None]) -> list[RowBlock | None]:
        """The blocks of all processes in order, from this process's own and their names in the cache.

        All processes call it, when each has its own blocks: it is where they wait for one another.
        """
        keys_by_rank = self._group.gather(list(own_keys))
        found: list[RowBlock | None] = []
        for rank, keys in enumerate(keys_by_rank):
            here = rank == self._group.rank
            found += own if here else [self._cache.read(self._subject, key) for key in keys]
        keys = [key for of_rank in keys_by_rank for key in of_rank]
        owners = [rank for rank, of_rank in enumerate(keys_by_rank) for _ in of_rank]
        # All learn what anyone lacks: sending is a step that all processes have to make together.
        lacking = self._group.gather([number for number, block in enumerate(found) if block is None])
        for number in sorted({number for of_rank in lacking for number in of_rank}):
            # Laid out as it is: another layout may give other bits in the next layer.
            block = self._group.send(found[number], owners[number])
            if found[number] is None and isinstance(block, Block):
                found[number] = self._kept(keys[number], block)
        return found
