"""Where a rank reads its training shards: from the store, or from copies in node-local storage."""

import platform
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.shard_cache.client import RemoteNodeCache
from orchestrator.shard_cache.node_placement import NodePlacement
from orchestrator.shard_cache.server import CacheSettings
from orchestrator.shard_cache.shard_map import ShardMap
from orchestrator.shard_cache.store import size_text
from samplers.schedule import Schedule, Slice

if TYPE_CHECKING:
    from orchestrator.data.forms import Origin

PlacementKind = Literal["shared", "replicate", "partition"]


@dataclass(frozen=True, slots=True)
class SharedPlacement:
    """Every rank maps the store itself. The methods are those that the loader and the worker call of any placement."""

    store: ChannelStore
    """The store to read the training split from, inside :meth:`step`."""

    def begin_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The steps from ``first_step`` to the end of the epoch are read next; call it before the first of them."""

    def step(self, epoch: int, step: int, slices: Sequence[Slice]) -> AbstractContextManager[None]:
        """Inside it the shards of the rank's slices are there. Every step of a begun epoch is entered once, from any
        thread and in any order."""
        return nullcontext()

    def counters(self) -> dict[str, float]:
        """Totals of this attempt, to be summed over all ranks; none, since nothing is moved."""
        return {}

    def close(self, *, finished: bool) -> None:
        """Call it when all ranks have read all they will; ``finished``: the run needs the copies no more."""


Placement = SharedPlacement | NodePlacement


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Who shares this node. attempt: token of the worker group. node: Ray's id. number: of the node among those that
    Ray has on the same machine. ranks: those of the node, ascending. nodes: Ray's ids of the nodes of all ranks."""

    attempt: str
    node: str
    number: int
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]


def gather_node_group(node: str) -> NodeGroup:
    """Who shares the node with this rank (collective over torch.distributed). node: Ray's id of the rank's node."""
    import torch.distributed as dist

    machine = platform.node()
    gathered: list[tuple[str, str, str]] = [("", "", "")] * dist.get_world_size()
    dist.all_gather_object(gathered, (node, machine, uuid.uuid4().hex))
    nodes_here = dict.fromkeys(other for other, other_machine, _ in gathered if other_machine == machine)
    nodes = tuple(other for other, *_ in gathered)
    ranks = tuple(rank for rank, other in enumerate(nodes) if other == node)
    return NodeGroup(attempt=gathered[0][2], node=node, number=list(nodes_here).index(node), ranks=ranks, nodes=nodes)


def partitions_within_nodes(nodes: Sequence[str], partitions: int) -> int:
    """The most consecutive partitions, a divisor of all, that ranks of one node serve in every block of so many.

    nodes: of all ranks; rank r of W serves the partitions p with p mod W = r.
    """
    served = [nodes[partition % len(nodes)] for partition in range(partitions)]
    blocks = (count for count in range(partitions, 0, -1) if partitions % count == 0)
    return next(
        count
        for count in blocks
        if all(len(set(served[first : first + count])) == 1 for first in range(0, partitions, count))
    )


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
        mend = "name a node-local folder in the cluster profile, or use placement shared"
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
        ShardCacheDiedError: the cache of the node died.
    """
    check_placement(kind, store, schedule, origins, cache, capacity)
    if kind == "shared":
        return SharedPlacement(store)
    assert group is not None and cache is not None and capacity is not None
    shard_map = ShardMap.of(store, schedule.catalogue, origins)
    settings = CacheSettings(
        folder=cache.absolute() / run / f"node-{group.number}",
        capacity=capacity,
        store=store.path,
        shards=shard_map.shards(),
        ranks=group.ranks,
    )
    node_cache = RemoteNodeCache(settings, f"wavetrain-cache/{run}/{group.attempt}/{group.node}", group.node)
    needs = node_needs(kind, shard_map, schedule, group.ranks, world)
    return NodePlacement(
        node_cache, store, schedule, shard_map, needs,
        rank=rank, leader=rank == group.ranks[0], whole_first=kind == "replicate",
    )  # fmt: skip


def node_needs(
    kind: PlacementKind, shard_map: ShardMap, schedule: Schedule, ranks: Sequence[int], world: int
) -> Callable[[int], tuple[str, ...]]:
    """Epoch -> the shards that the ranks of a node need: all, or those of their partitions."""
    if kind == "replicate":
        everything = shard_map.all_files()
        return lambda epoch: everything
    partitions = [partition for partition in range(schedule.partitions) if partition % world in ranks]
    return lambda epoch: shard_map.epoch_files(schedule, epoch, partitions)
