"""Ranks on the nodes of a cluster that read scheduled samples through a placement, and what happens to them."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.shard_cache.placement import NodeGroup, make_placement
from orchestrator.shard_cache.shard_map import ShardMap
from samplers.catalogue import Catalogue
from samplers.plan import make_plan
from samplers.schedule import Schedule
from tests.e2e.raylets import Raylets

PARTITIONS = 4
PATIENCE_S = 120
Read = tuple[int, str, int]


@dataclass(frozen=True)
class Origin:
    """The part of orchestrator.data.reader.Origin that placement reads; that module takes seconds to import torch."""

    set_name: str
    samples_per_stored: int = 1


@dataclass(frozen=True)
class Reading:
    """What the ranks of a test read. spare: where the nodes keep their copies."""

    store: Path
    catalogue: Catalogue
    spare: Path
    run: str
    epochs: int = 1

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(Origin(source.name) for source in self.catalogue)

    @property
    def schedule(self) -> Schedule:
        plan = make_plan(self.catalogue, buckets=2, batch=2 * PARTITIONS, partitions=PARTITIONS)
        return Schedule(self.catalogue, plan, seed=3, partitions=PARTITIONS, epochs=self.epochs)

    def needed(self, epochs: Iterable[int], ranks: tuple[int, ...], world: int) -> dict[str, int]:
        """Files that some ranks read in some epochs, and their sizes."""
        shard_map = ShardMap.of(ChannelStore.open(self.store), self.catalogue, self.origins)
        partitions = [partition for partition in range(PARTITIONS) if partition % world in ranks]
        files = [shard_map.epoch_files(self.schedule, epoch, partitions) for epoch in epochs]
        return {file: shard_map.size([file]) for file in chain.from_iterable(files)}


class Rank:
    """A rank as a Ray actor."""

    def __init__(self, reading: Reading, group: NodeGroup, rank: int, world: int) -> None:
        self.schedule = reading.schedule
        self.rank, self.world = rank, world
        self.names = [source.name for source in reading.catalogue]
        self.begun = -1
        self.placement = make_placement(
            "partition", ChannelStore.open(reading.store), self.schedule, reading.origins,
            rank=rank, world=world, group=group, cache=reading.spare, capacity=10**9, run=reading.run,
        )  # fmt: skip

    def read(self, epoch: int, step: int) -> list[Read]:
        """True samples of a step, read from the content of their channels."""
        if epoch != self.begun:
            self.placement.begin_epoch(epoch, step)
            self.begun = epoch
        slices = self.schedule.rank_step(epoch, step, self.rank, self.world)
        found: list[Read] = []
        with self.placement.step(epoch, step, slices):
            for each in slices:
                for source, index, weight in zip(each.source, each.index, each.weight, strict=True):
                    name = self.names[source]
                    value = self.placement.store.read(name, "train", np.asarray([index]))[0, 0, 0, 0]
                    assert value.imag == source
                    found += [(epoch, name, int(value.real) - 1)] if weight else []
        return found

    def copies(self) -> set[str]:
        """Files in the folder of this rank's node."""
        root = self.placement.store.path
        return {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")}

    def counters(self) -> dict[str, float]:
        return self.placement.counters()

    def close(self, finished: bool) -> None:
        self.placement.close(finished=finished)


class WorkerGroup:
    """Rank i on node ``nodes[i]`` of the cluster, in lockstep."""

    def __init__(self, raylets: Raylets, reading: Reading, nodes: list[int], attempt: str) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.ray = raylets.ray
        self.reading = reading
        remote = self.ray.remote(num_cpus=0)(Rank)
        self.ranks = []
        for rank, number in enumerate(nodes):
            node = raylets.node_id(number)
            ranks = tuple(other for other, at in enumerate(nodes) if at == number)
            group = NodeGroup(attempt, node, number, ranks, tuple(map(str, nodes)))
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            self.ranks.append(remote.options(scheduling_strategy=here).remote(reading, group, rank, len(nodes)))

    def train(self, epoch: int, steps: range) -> list[Read]:
        """Samples of some steps, of all ranks."""
        reads: list[Read] = []
        for step in steps:
            reads += chain.from_iterable(self.ask("read", epoch, step))
        return reads

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method on every rank."""
        calls = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
        answers: list[Any] = self.ray.get(calls, timeout=PATIENCE_S)
        return answers

    def errors(self, method: str, *arguments: Any) -> list[str]:
        """What a call of a method on every rank raises: the name of the error, empty where there is none."""
        names = []
        for rank in self.ranks:
            try:
                self.ray.get(getattr(rank, method).remote(*arguments), timeout=PATIENCE_S)
                names.append("")
            except self.ray.exceptions.RayTaskError as error:
                names.append(type(error.cause).__name__)
        return names

    def await_copies(self, epochs: Iterable[int]) -> list[set[str]]:
        """Files on every rank's node, once all that the rank itself needs in some epochs are there."""
        world = len(self.ranks)
        needed = [set(self.reading.needed(epochs, (rank,), world)) for rank in range(world)]
        deadline = time.monotonic() + PATIENCE_S
        while not all(files <= copies for files, copies in zip(needed, self.ask("copies"), strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.ask("copies")

    def await_misses(self, misses: int) -> list[dict[str, float]]:
        """Every rank's counters, once so many shards are counted as copied: a copy is there a moment earlier."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            counters = self.ask("counters")
            if sum(each["data/shard_cache_misses"] for each in counters) >= misses:
                return counters
            assert time.monotonic() < deadline, counters
            time.sleep(0.05)

    def await_death(self, rank: int) -> None:
        """Until the rank answers no more; it fails where it lives on."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                self.ray.get(self.ranks[rank].counters.remote(), timeout=PATIENCE_S)
            except self.ray.exceptions.RayActorError:
                return
        raise AssertionError(f"rank {rank} lives on")

    def kill(self) -> None:
        for rank in self.ranks:
            self.ray.kill(rank)


def lose_a_cache(raylets: Raylets, reading: Reading) -> dict[str, Any]:
    """Two nodes of two ranks read two epochs; the cache of the first node dies in the middle of the first epoch, and a
    second worker group on the same nodes goes on from there."""
    first = WorkerGroup(raylets, reading, [1, 1, 2, 2], "first")
    steps = reading.schedule.steps(0)
    reads = first.train(0, range(steps // 2))
    copies = first.await_copies([0, 1])
    before = first.await_misses(len(copies[0]) + len(copies[2]))
    raylets.ray.kill(raylets.ray.get_actor(f"wavetrain-cache/{reading.run}/first/{raylets.node_id(1)}"))
    errors = first.errors("counters")
    # Ray does not wait for the end of an actor that it kills.
    deadline = time.monotonic() + 60
    while not any(errors) and time.monotonic() < deadline:
        time.sleep(0.1)
        errors = first.errors("counters")
    first.kill()
    second = WorkerGroup(raylets, reading, [1, 1, 2, 2], "second")
    reads += second.train(0, range(steps // 2, steps))
    reads += second.train(1, range(reading.schedule.steps(1)))
    result = {"reads": Counter(reads), "before": before, "errors": errors}
    result |= {"after": second.ask("counters"), "copies": second.ask("copies")}
    second.ask("close", True)
    second.kill()
    return result


def read_a_corrupt_shard(raylets: Raylets, reading: Reading) -> str:
    """What the rank that meets it raises."""
    group = WorkerGroup(raylets, reading, [1], "only")
    try:
        group.train(0, range(reading.schedule.steps(0)))
    except UserError as error:
        return str(error.cause)  # type: ignore[attr-defined]
    finally:
        group.kill()
    return "no error"


def lose_a_raylet(raylets: Raylets, reading: Reading) -> dict[str, Any]:
    """Two nodes of a rank each; the raylet of rank 1 is killed while a step is read, the rank goes on elsewhere."""
    first = WorkerGroup(raylets, reading, [1, 2], "first")
    steps = reading.schedule.steps(0)
    reads = first.train(0, range(steps // 2))
    first.await_copies([0])
    for rank in first.ranks:
        rank.read.remote(0, steps // 2)
    raylets.kill_node(2)
    first.await_death(1)
    # As Ray Train does: the whole group ends and starts again; the step under way was not committed.
    first.kill()
    second = WorkerGroup(raylets, reading, [1, 0], "second")
    reads += second.train(0, range(steps // 2, steps))
    result = {"reads": Counter(reads), "copies": second.ask("copies"), "after": second.ask("counters")}
    second.kill()
    return result
