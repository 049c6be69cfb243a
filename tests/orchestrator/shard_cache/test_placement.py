import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from channels.errors import UserError
from channels.manifest import Shard
from channels.store import ChannelStore
from orchestrator.shard_cache.node_placement import NodePlacement
from orchestrator.shard_cache.placement import (
    NodeGroup,
    SharedPlacement,
    check_placement,
    gather_node_group,
    make_placement,
    node_needs,
    partitions_within_nodes,
)
from orchestrator.shard_cache.server import NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from samplers.catalogue import Catalogue
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store, origins_of, settings_for
from tests.ranks import RankPool
from tests.samplers.cases import many_cases, schedules, whole_epoch, worlds

SAMPLES = 36
PATIENCE_S = 30
Read = tuple[int, str, int]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ChannelStore:
    return make_numbered_store(tmp_path_factory.mktemp("source") / "store", SAMPLES)


def schedule_of(
    store: ChannelStore, *, epochs: int, batch: int = 8, seed: int = 1, strategy: str = "bucket"
) -> Schedule:
    catalogue = catalogue_of(store, SAMPLES)
    plan = make_plan(catalogue, strategy=strategy, buckets=2, batch=batch, partitions=4)
    return Schedule(catalogue, plan, seed=seed, partitions=4, epochs=epochs)


def largest_step(schedule: Schedule, shard_map: ShardMap, world: int) -> int:
    """Bytes of the shards of the largest step of any rank."""
    return max(
        shard_map.size(shard_map.files(slices))
        for epoch in range(schedule.epochs)
        for rank in range(world)
        for slices in whole_epoch(schedule, epoch, rank, world)
    )


def read_slices(store: ChannelStore, slices: tuple[Slice, ...]) -> Iterator[tuple[str, int]]:
    """(set, sample) of every true sample, read from the content of the channels."""
    names = tuple(store.sets)
    for each in slices:
        for source in np.unique(each.source):
            chosen = (each.source == source) & (each.weight > 0)
            values = store.read(names[source], "train", each.index[chosen])[:, 0, 0, 0]
            assert np.all(values.imag == source)
            yield from ((names[source], int(value) - 1) for value in values.real)


def in_background(function: Callable[..., list[Read]], *arguments: Any) -> "Future[list[Read]]":
    """The result of a thread that is left behind where it hangs, so that a deadlock fails the test and ends."""
    future: Future[list[Read]] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


@dataclass
class Rank:
    """Prepares up to four steps at the same time; all ranks train in lockstep."""

    rank: int
    world: int
    schedule: Schedule
    placement: NodePlacement | SharedPlacement
    lockstep: threading.Barrier

    def train(self) -> list[Read]:
        reads: list[Read] = []
        begun = -1
        waiting: deque[Future[list[Read]]] = deque()
        for epoch, step, slices in self.schedule.iterate(0, 0, self.rank, self.world):
            if epoch != begun:
                self.placement.begin_epoch(epoch, step)
                begun = epoch
            waiting.append(in_background(self._prepare, epoch, step, slices))
            if len(waiting) > 3:
                reads += self._train_step(waiting.popleft())
        while waiting:
            reads += self._train_step(waiting.popleft())
        return reads

    def _prepare(self, epoch: int, step: int, slices: tuple[Slice, ...]) -> list[Read]:
        with self.placement.step(epoch, step, slices):
            return [(epoch, *sample) for sample in read_slices(self.placement.store, slices)]

    def _train_step(self, prepared: "Future[list[Read]]") -> list[Read]:
        reads = prepared.result(PATIENCE_S)
        self.lockstep.wait(PATIENCE_S)
        return reads


@contextmanager
def placed_ranks(
    kind: str, store: ChannelStore, schedule: Schedule, nodes: list[tuple[int, ...]], capacity: int
) -> Iterator[list[Rank]]:
    """Ranks over several nodes, each with its cache."""
    world = sum(len(ranks) for ranks in nodes)
    lockstep = threading.Barrier(world)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    made = {}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        for number, ranks in enumerate(nodes):
            cache = NodeCache(settings_for(store, shard_map, Path(folder) / str(number), capacity, ranks))
            stack.callback(cache.close)
            needs = node_needs(kind, shard_map, schedule, ranks, world)
            for rank in ranks:
                placement = NodePlacement(
                    cache, store, schedule, shard_map, needs, rank=rank,
                    leader=rank == ranks[0], whole_first=kind == "replicate",
                )  # fmt: skip
                made[rank] = Rank(rank, world, schedule, placement, lockstep)
        yield [made[rank] for rank in range(world)]


def train_together(ranks: list[Rank]) -> list[Read]:
    trained = [in_background(rank.train) for rank in ranks]
    return [read for each in trained for read in each.result(PATIENCE_S)]


def every_sample_once(store: ChannelStore, epochs: int) -> Counter[Read]:
    return Counter((epoch, name, sample) for epoch in range(epochs) for name in store.sets for sample in range(SAMPLES))


def copies(placement: NodePlacement) -> set[str]:
    root = placement.store.path
    return {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")}


def map_of_names(catalogue: Catalogue) -> ShardMap:
    """The shard map of a catalogue without a store: shard 3 of set S1 is the file S1/3."""
    shards = []
    for source in catalogue:
        total = sum(other.count for other in catalogue if (other.pool or other.name) == (source.pool or source.name))
        numbers = range(-(-total // source.shard_samples))
        shards.append(tuple(Shard(f"{source.name}/{number}", 1, 1, "") for number in numbers))
    return ShardMap(tuple(shards), np.asarray([source.shard_samples for source in catalogue], np.int64))


@many_cases
@given(schedules(), st.data())
def test_the_files_of_an_epoch_hold_every_step_and_the_map_names_the_right_ones(
    schedule: Schedule, data: st.DataObject
) -> None:
    world = data.draw(st.sampled_from(worlds(schedule)))
    rank = data.draw(st.integers(0, world - 1))
    epoch = data.draw(st.integers(0, schedule.epochs - 1))
    shard_map = map_of_names(schedule.catalogue)
    needed = set(node_needs("partition", shard_map, schedule, (rank,), world)(epoch))
    for slices in whole_epoch(schedule, epoch, rank, world):
        files = shard_map.files(slices)
        assert set(files) == {
            f"{schedule.catalogue[source].name}/{index // schedule.catalogue[source].shard_samples}"
            for each in slices
            for source, index in zip(each.source.tolist(), each.index.tolist(), strict=True)
        }
        assert len(files) == len(set(files))
        assert needed.issuperset(files)
    assert needed <= set(shard_map.all_files())


def test_the_map_of_a_store_counts_samples_and_leaves_out_unused_shards(store: ChannelStore) -> None:
    """A model of single snapshots draws 3 training samples from each stored one; only the first 10 are used."""
    from orchestrator.data.forms import Origin
    from tests.samplers.cases import pooled_sources

    catalogue = Catalogue(pooled_sources("N1", {0: 5, 1: 6}, 10 * 3, shard_samples=4 * 3))
    shard_map = ShardMap.of(store, catalogue, [Origin("N1", (3, 2, 1), variant, 3) for variant in (0, 1)])
    assert shard_map.all_files() == tuple(f"shards/N1/train-{number:05d}.safetensors" for number in range(3))
    last_two = Slice(0, 1, np.asarray([1, 1], np.int32), np.asarray([11, 12]), np.ones(2, np.float32), 0)
    assert shard_map.files([last_two]) == shard_map.all_files()[:2]


# A deadlock takes PATIENCE_S to show, so an example is not shrunk.
@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.sampled_from([[(0,)], [(0, 1)], [(0,), (1,)], [(0, 2), (1, 3)], [(0, 1, 2), (3,)]]),
    st.sampled_from(["bucket", "sequential"]),
    st.sampled_from([8, 16, 36]),
    st.floats(1.0, 4.0),
    st.integers(0, 99),
)
def test_every_sample_is_read_once_whatever_the_cache_holds(
    store: ChannelStore, nodes: list[tuple[int, ...]], strategy: str, batch: int, factor: float, seed: int
) -> None:
    schedule = schedule_of(store, epochs=3, batch=batch, seed=seed, strategy=strategy)
    world = sum(len(ranks) for ranks in nodes)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    capacity = int(factor * largest_step(schedule, shard_map, world))
    with placed_ranks("partition", store, schedule, nodes, capacity) as ranks:
        reads = Counter(train_together(ranks))
        totals = [rank.placement.counters() for rank in ranks]
        held = [shard_map.size(copies(rank.placement)) for rank in ranks]
    if strategy == "bucket":
        assert reads == every_sample_once(store, 3)
    else:
        assert Counter(read[1:] for read in reads.elements()) == {
            (name, sample): 3 for name in store.sets for sample in range(SAMPLES)
        }
    assert max(held) <= capacity
    assert sum(total["data/shard_bytes_moved"] for total in totals) > 0
    spoken = [rank for rank, total in enumerate(totals) if total["data/shard_cache_misses"]]
    assert spoken == sorted(ranks[0] for ranks in nodes)


def test_two_nodes_copy_only_their_partitions(store: ChannelStore) -> None:
    schedule = schedule_of(store, epochs=1)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    with placed_ranks("partition", store, schedule, [(0,), (1,)], 10**6) as ranks:
        train_together(ranks)
        for rank in ranks:
            needed = set(shard_map.epoch_files(schedule, 0, [rank.rank, rank.rank + 2]))
            assert copies(rank.placement) == needed < set(shard_map.all_files())
            counters = rank.placement.counters()
            assert counters["data/shard_bytes_moved"] == shard_map.size(needed)
            assert counters["data/shard_cache_misses"] == len(needed)


def test_replicate_copies_everything_before_the_first_step(store: ChannelStore) -> None:
    schedule = schedule_of(store, epochs=3)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    everything = set(shard_map.all_files())
    with placed_ranks("replicate", store, schedule, [(0,), (1,)], shard_map.size(everything)) as ranks:
        ranks[0].placement.begin_epoch(0)
        assert copies(ranks[0].placement) == everything
        assert not copies(ranks[1].placement)
        assert Counter(train_together(ranks)) == every_sample_once(store, 3)
        counters = ranks[0].placement.counters()
    assert counters["data/shard_bytes_moved"] == shard_map.size(everything)
    assert counters["data/shard_cache_misses"] == len(everything)


def test_steps_need_no_lease_once_their_whole_epoch_is_there(
    store: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = schedule_of(store, epochs=1)
    with placed_ranks("partition", store, schedule, [(0,)], 10**6) as [rank]:
        placement, cache = rank.placement, rank.placement._cache
        leases = []
        acquire = cache.acquire
        monkeypatch.setattr(cache, "acquire", lambda lease, *of: leases.append(lease) or acquire(lease, *of))
        placement.begin_epoch(0)
        deadline = time.monotonic() + PATIENCE_S
        while not cache.acquire("probe", 0, ()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leases.clear()
        for step, slices in enumerate(whole_epoch(schedule, 0)):
            with placement.step(0, step, slices):
                assert len(list(read_slices(placement.store, slices))) == sum(int(each.weight.sum()) for each in slices)
        assert len(leases) == 1


def mapped(placement: NodePlacement) -> list[str]:
    root = str(placement.store.path)
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if root in line]


def test_evicted_shards_are_unmapped(store: ChannelStore) -> None:
    """Otherwise their space would stay taken."""
    schedule = schedule_of(store, epochs=1)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    with placed_ranks("partition", store, schedule, [(0,)], largest_step(schedule, shard_map, 1)) as [rank]:
        rank.placement.begin_epoch(0)
        for step, slices in enumerate(whole_epoch(schedule, 0)):
            with rank.placement.step(0, step, slices):
                assert list(read_slices(rank.placement.store, slices)) and mapped(rank.placement)
            assert not [line for line in mapped(rank.placement) if "(deleted)" in line]


def test_shards_of_epochs_that_were_read_are_unmapped(store: ChannelStore) -> None:
    with placed_ranks("partition", store, schedule_of(store, epochs=2), [(0, 1)], 10**6) as ranks:
        train_together(ranks)
        assert not mapped(ranks[0].placement)


def test_shared_reads_the_store_itself(store: ChannelStore, tmp_path: Path) -> None:
    schedule = schedule_of(store, epochs=2)
    placement = make_placement(
        "shared", store, schedule, origins_of(store), rank=0, world=1, group=None, cache=None, capacity=None, run="r"
    )
    assert placement.store is store
    rank = Rank(0, 1, schedule, placement, threading.Barrier(1))
    assert Counter(rank.train()) == every_sample_once(store, 2)
    assert placement.counters() == {}
    placement.close(finished=True)
    assert ChannelStore.open(store.path).fingerprint == store.fingerprint


@pytest.mark.parametrize(
    ("kind", "cache", "capacity", "message"),
    [
        ("partition", None, 10, r"data\.placement partition: the profile has no storage\.cache; name a node-local"),
        ("replicate", Path("c"), None, r"data\.placement replicate: data\.cache_gb is missing; say how much"),
        ("replicate", Path("c"), 999, r"every node holds [\d.]+ kB of shards, data\.cache_gb allows 999 B; raise"),
    ],
)
def test_what_cannot_work_is_refused(
    store: ChannelStore, kind: str, cache: Path | None, capacity: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_placement(kind, store, schedule_of(store, epochs=1), origins_of(store), cache, capacity)


def test_a_cache_smaller_than_a_step_is_refused_with_both_sizes(store: ChannelStore) -> None:
    schedule = schedule_of(store, epochs=1)
    shard_map = ShardMap.of(store, schedule.catalogue, origins_of(store))
    needed = largest_step(schedule, shard_map, 1)
    message = r"shards are needed at once, [\d.]+ kB; it holds \d+ B; raise data\.cache_gb"
    with (
        placed_ranks("partition", store, schedule, [(0,)], min(needed - 1, 999)) as [rank],
        pytest.raises(UserError, match=message),
    ):
        rank.train()


def gather_on(nodes: tuple[str, ...]) -> NodeGroup:
    import torch.distributed as dist

    return gather_node_group(nodes[dist.get_rank()])


def test_ranks_of_a_node_find_each_other(ranks: RankPool) -> None:
    groups = ranks(4, gather_on, ("a", "b", "a", "a"))
    assert [group.ranks for group in groups] == [(0, 2, 3), (1,), (0, 2, 3), (0, 2, 3)]
    assert [group.node for group in groups] == ["a", "b", "a", "a"]
    assert [group.number for group in groups] == [0, 1, 0, 0], "both nodes are on this machine"
    assert {group.nodes for group in groups} == {("a", "b", "a", "a")}
    assert len({group.attempt for group in groups}) == 1
    assert groups[0].attempt != ranks(4, gather_on, ("a", "b", "a", "a"))[0].attempt


@pytest.mark.parametrize(
    ("nodes", "partitions", "expected"),
    [("aabb", 4, 2), ("aabb", 8, 2), ("aaaa", 8, 8), ("aaabbb", 6, 3), ("aaab", 4, 1), ("abab", 8, 1), ("a", 6, 6)],
)
def test_partitions_exchange_samples_within_a_node(nodes: str, partitions: int, expected: int) -> None:
    assert partitions_within_nodes(nodes, partitions) == expected
