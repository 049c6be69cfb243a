"""Where a rank reads its training shards: from the store, or from copies in node-local storage."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.cached_store import CachedStore
from orchestrator.node_cache import CacheSettings
from orchestrator.shard_cache import CacheCounts, size_text
from orchestrator.shard_map import ShardMap
from samplers.schedule import Schedule, Slice

if TYPE_CHECKING:
    from orchestrator.data import Origin

PlacementKind = Literal["shared", "replicate", "partition"]


class Placement(Protocol):
    """What the loader of a rank asks for. ``step`` may be called from several threads, in any order."""

    @property
    def store(self) -> ChannelStore:
        """The store to read the training split from, inside :meth:`step`."""

    def begin_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The steps from ``first_step`` to the end of the epoch are read next; call it before the first of them."""

    def step(self, epoch: int, step: int, pieces: Sequence[Slice]) -> AbstractContextManager[None]:
        """Inside it the shards of the rank's slices are there; every step of a begun epoch is entered once."""

    def counters(self) -> dict[str, float]:
        """Totals of this attempt, to be summed over all ranks: each node's are told by one of its ranks."""

    def close(self, *, finished: bool) -> None:
        """Call it when all ranks have read all they will; ``finished``: the run needs the copies no more."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Who shares this node. attempt: token of the worker group. node: Ray's id. ranks: those of the node, ascending."""

    attempt: str
    node: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SharedPlacement:
    """Every rank maps the store itself."""

    store: ChannelStore

    def begin_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Nothing to do."""

    def step(self, epoch: int, step: int, pieces: Sequence[Slice]) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def counters(self) -> dict[str, float]:
        """Nothing is moved, so nothing is measured."""
        return {}

    def close(self, *, finished: bool) -> None:
        """Nothing to do."""


class EpochCache(Protocol):
    """The cache of a node as one of its ranks sees it (see :class:`NodeCache`)."""

    @property
    def folder(self) -> Path:
        """Where the copies lie."""

    def update(self, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """All epochs before ``position`` are read; the node needs these shards in these epochs."""

    def acquire(self, lease: str, epoch: int, files: Sequence[str]) -> bool:
        """Lease shards; whether the epoch needs no further leases."""

    def release(self, lease: str) -> None:
        """End a lease."""

    def counts(self) -> CacheCounts:
        """What happened so far."""

    def discard(self) -> None:
        """Remove the copies."""


class NodePlacement:
    """Reads copies that the node's cache holds.

    needs: shards of the node, all its ranks together, in an epoch. Each step leases its shards until the cache says that
    the whole epoch is there to stay. whole_first: wait for all shards of the first epoch before its first step.
    """

    def __init__(
        self,
        cache: EpochCache,
        store: ChannelStore,
        schedule: Schedule,
        shard_map: ShardMap,
        needs: Callable[[int], Sequence[str]],
        *,
        leader: bool,
        whole_first: bool,
    ) -> None:
        self.store = CachedStore(cache.folder, store.sets)
        self._cache = cache
        self._schedule = schedule
        self._shard_map = shard_map
        self._needed = needs
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
                    self._needs[needed] = tuple(self._needed(needed))
            self._tell()
        if self._whole_first:
            self._cache.acquire("first epoch", epoch, self._needs[epoch])
            self._cache.release("first epoch")
            self._whole_first = False

    @contextmanager
    def step(self, epoch: int, step: int, pieces: Sequence[Slice]) -> Iterator[None]:
        """Leases the step's shards, or knows that they are there."""
        files: tuple[str, ...] = ()
        lease = f"{epoch}/{step}"
        if epoch not in self._whole:
            files = self._shard_map.files(pieces)
            if self._cache.acquire(lease, epoch, files):
                self._whole.add(epoch)
        try:
            yield
        finally:
            if files:
                self._cache.release(lease)
                self.store.forget(files)
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

    def _end_step(self, epoch: int) -> None:
        with self._lock:
            self._steps_left[epoch] -= 1
            if self._steps_left[epoch]:
                return
            del self._steps_left[epoch]
            position = self._position
            done = [other for other in self._needs if other < position]
            read = {file for other in done for file in self._needs.pop(other)}
            self._whole.difference_update(done)
            self.store.forget(read.difference(*self._needs.values()))
            self._tell()

    @property
    def _position(self) -> int:
        """The first epoch that is not read to its end."""
        return min(self._steps_left, default=self._next_epoch)

    def _tell(self) -> None:
        self._cache.update(self._position, self._needs)


def gather_node_group(node: str) -> NodeGroup:
    """Who shares the node with this rank (collective over torch.distributed). node: Ray's id of the rank's node."""
    import torch.distributed as dist

    told: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
    dist.all_gather_object(told, (node, uuid.uuid4().hex))
    ranks = tuple(rank for rank, (other, _) in enumerate(told) if other == node)
    return NodeGroup(attempt=told[0][1], node=node, ranks=ranks)


def check_placement(
    kind: PlacementKind,
    store: ChannelStore,
    schedule: Schedule,
    origins: Sequence["Origin"],
    cache: Path | None,
    capacity: int | None,
) -> None:
    """Refuse what cannot work on any node. cache: folder in node-local storage. capacity: bytes a node.

    Raises:
        UserError: no folder or capacity for copies, or less capacity than the shards that every node shall hold.
    """
    if kind == "shared":
        return
    where = f"data.placement {kind}"
    if cache is None:
        mend = "name a node-local folder in cluster.yaml, or use placement shared"
        raise UserError("the profile has no storage.cache", where=where, mend=mend)
    if not capacity:
        raise UserError("data.cache_gb is missing", where=where, mend="say how much a node may hold, in GB")
    if kind == "replicate":
        shard_map = ShardMap.of(store, schedule.catalogue, origins)
        needed = shard_map.size(shard_map.all_files())
        if needed > capacity:
            what = f"every node holds {size_text(needed)} of shards, data.cache_gb allows {size_text(capacity)}"
            raise UserError(what, where=where, mend="raise data.cache_gb, or use placement partition")


def make_placement(
    kind: PlacementKind,
    store: ChannelStore,
    schedule: Schedule,
    origins: Sequence["Origin"],
    *,
    rank: int,
    world: int,
    group: NodeGroup | None,
    cache: Path | None,
    capacity: int | None,
    run: str,
) -> Placement:
    """The placement of one rank. group: who shares its node (None for ``shared``). run: name of the run.

    Raises:
        UserError: see :func:`check_placement`; a cache folder that cannot be written.
    """
    check_placement(kind, store, schedule, origins, cache, capacity)
    if kind == "shared":
        return SharedPlacement(store)
    from orchestrator.node_cache_client import NodeCacheClient

    assert group is not None and cache is not None and capacity is not None
    shard_map = ShardMap.of(store, schedule.catalogue, origins)
    settings = CacheSettings(
        attempt=group.attempt,
        folder=cache.absolute() / run,
        capacity=capacity,
        store=store.path,
        shards=shard_map.shards(),
        ranks=group.ranks,
    )
    client = NodeCacheClient(settings, run, group.node, rank)
    needs = node_needs(kind, shard_map, schedule, group.ranks, world)
    leader = rank == group.ranks[0]
    return NodePlacement(client, store, schedule, shard_map, needs, leader=leader, whole_first=kind == "replicate")


def node_needs(
    kind: PlacementKind, shard_map: ShardMap, schedule: Schedule, ranks: Sequence[int], world: int
) -> Callable[[int], tuple[str, ...]]:
    """Epoch -> the shards that the ranks of a node need: all, or those of their partitions."""
    if kind == "replicate":
        everything = shard_map.all_files()
        return lambda epoch: everything
    partitions = [partition for partition in range(schedule.partitions) if partition % world in ranks]
    return lambda epoch: shard_map.epoch_files(schedule, epoch, partitions)
