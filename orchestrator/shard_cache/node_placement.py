"""The placement of a rank that reads the copies of its node's cache."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from channels.store import ChannelStore
from orchestrator.shard_cache.client import RemoteNodeCache
from orchestrator.shard_cache.server import NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from orchestrator.shard_cache.store import CacheCounts
from samplers.schedule import Schedule, Slice


class NodePlacement:
    """Reads copies that the node's cache holds.

    needs: shards of the node, all its ranks together, in an epoch. Each step leases its shards until the cache says
    that the whole epoch is there to stay. leader: the one rank of the node that reports its counters and removes its
    copies. whole_first: wait for all shards of the first epoch before its first step.
    """

    def __init__(
        self,
        cache: NodeCache | RemoteNodeCache,
        store: ChannelStore,
        schedule: Schedule,
        shard_map: ShardMap,
        needs: Callable[[int], Sequence[str]],
        *,
        rank: int,
        leader: bool,
        whole_first: bool,
    ) -> None:
        self.store = ChannelStore(cache.folder, store.sets)
        self._cache = cache
        self._schedule = schedule
        self._shard_map = shard_map
        self._needs_of = needs
        self._rank = rank
        self._leader = leader
        self._whole_first = whole_first
        self._lock = threading.Lock()
        self._steps_left: dict[int, int] = {}
        """Of every epoch that was begun and is not read to its end."""
        self._next_epoch = 0
        self._needs: dict[int, tuple[str, ...]] = {}
        self._whole: set[int] = set()

    def begin_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Tells the cache what this epoch and the next one need; raises UserError where it cannot hold a step."""
        with self._lock:
            self._steps_left[epoch] = self._schedule.steps(epoch) - first_step
            self._next_epoch = epoch + 1
            for needed in range(epoch, min(epoch + 2, self._schedule.epochs)):
                if needed not in self._needs:
                    self._needs[needed] = tuple(self._needs_of(needed))
            self._update()
        if self._whole_first:
            lease = f"{self._rank}/first epoch"
            self._cache.acquire(lease, epoch, self._needs[epoch])
            self._cache.release(lease)
            self._whole_first = False

    @contextmanager
    def step(self, epoch: int, step: int, slices: Sequence[Slice]) -> Iterator[None]:
        """Leases the step's shards, or knows that they are there."""
        if epoch in self._whole:
            yield
        else:
            with self._leased(epoch, step, self._shard_map.files(slices)):
                yield
        self._end_step(epoch)

    def counters(self) -> dict[str, float]:
        """Totals of the node's cache on one of its ranks, zeros on the others."""
        counts = self._cache.counts() if self._leader else CacheCounts()
        return {
            "data/shard_bytes_moved": float(counts.bytes_moved),
            "data/shard_cache_hits": float(counts.hits),
            "data/shard_cache_misses": float(counts.misses),
        }

    def close(self, *, finished: bool) -> None:
        """Copies of a finished run are removed; those of an unfinished one serve its next attempt on this node."""
        if finished and self._leader:
            self._cache.discard()

    @contextmanager
    def _leased(self, epoch: int, step: int, files: Sequence[str]) -> Iterator[None]:
        lease = f"{self._rank}/{epoch}/{step}"
        if self._cache.acquire(lease, epoch, files):
            self._whole.add(epoch)
        try:
            yield
        finally:
            self._cache.release(lease)
            self.store.forget(files)

    def _end_step(self, epoch: int) -> None:
        with self._lock:
            self._steps_left[epoch] -= 1
            if self._steps_left[epoch]:
                return
            del self._steps_left[epoch]
            done = [other for other in self._needs if other < self._position]
            read = {file for other in done for file in self._needs.pop(other)}
            self._whole.difference_update(done)
            self.store.forget(read.difference(*self._needs.values()))
            self._update()

    @property
    def _position(self) -> int:
        """The first epoch that is not read to its end."""
        return min(self._steps_left, default=self._next_epoch)

    def _update(self) -> None:
        self._cache.update(self._rank, self._position, dict(self._needs))
