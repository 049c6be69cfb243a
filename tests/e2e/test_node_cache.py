"""Shards on the nodes of a real cluster: three raylets on this machine, each with its own folder of copies."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from samplers.catalogue import Catalogue
from tests.e2e.cluster_ranks import Reading, lose_a_cache, lose_a_raylet, read_a_corrupt_shard
from tests.e2e.raylets import RayletsProcess
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store

pytestmark = pytest.mark.e2e
SAMPLES = 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayletsProcess]:
    with RayletsProcess(3) as raylets:
        yield raylets


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Catalogue]:
    store = make_numbered_store(tmp_path_factory.mktemp("source") / "store", SAMPLES)
    return store.path, catalogue_of(store, SAMPLES)


def every_sample_once(catalogue: Catalogue, epochs: int) -> Counter[tuple[int, str, int]]:
    return Counter(
        (epoch, source.name, sample) for epoch in range(epochs) for source in catalogue for sample in range(SAMPLES)
    )


def test_nodes_copy_what_their_ranks_need_and_a_dead_cache_ends_the_attempt(
    cluster: RayletsProcess, made: tuple[Path, Catalogue], tmp_path: Path
) -> None:
    store, catalogue = made
    reading = Reading(store, catalogue, tmp_path, "lost-cache", epochs=2)
    result = cluster(lose_a_cache, reading)
    assert result["reads"] == every_sample_once(catalogue, 2)
    needed = [reading.needed((0, 1), ranks, 4) for ranks in ((0, 1), (2, 3))]
    assert result["copies"] == [set(needed[0])] * 2 + [set(needed[1])] * 2
    moved = [counters["data/shard_bytes_moved"] for counters in result["before"]]
    assert moved == [sum(needed[0].values()), 0, sum(needed[1].values()), 0], "one rank counts for its node"
    misses = [counters["data/shard_cache_misses"] for counters in result["before"]]
    assert misses == [len(needed[0]), 0, len(needed[1]), 0]
    assert result["errors"] == ["ShardCacheDiedError", "", "", ""], "the first rank of the node asks for its counters"
    after = [counters["data/shard_bytes_moved"] for counters in result["after"]]
    assert after == [0, 0, 0, 0], "the caches of the next attempt found the copies of those before"
    assert result["after"][0]["data/shard_cache_hits"] > 0
    assert not list(tmp_path.iterdir()), "a finished run leaves nothing"


def test_a_corrupt_shard_is_named(cluster: RayletsProcess, made: tuple[Path, Catalogue], tmp_path: Path) -> None:
    store, catalogue = made
    shutil.copytree(store, tmp_path / "store")
    shard = tmp_path / "store" / "shards" / "N1" / "train-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    message = cluster(read_a_corrupt_shard, Reading(tmp_path / "store", catalogue, tmp_path, "corrupt"))
    assert message.startswith(f"{shard}: the shard is corrupt: 2 copies had the SHA-256")


def test_a_raylet_killed_in_mid_epoch(cluster: RayletsProcess, made: tuple[Path, Catalogue], tmp_path: Path) -> None:
    store, catalogue = made
    reading = Reading(store, catalogue, tmp_path, "lost-raylet")
    result = cluster(lose_a_raylet, reading)
    assert result["reads"] == every_sample_once(catalogue, 1)
    needed = [reading.needed([0], (rank,), 2) for rank in (0, 1)]
    assert result["copies"] == [set(files) for files in needed]
    stayed, moved = result["after"]
    assert stayed["data/shard_bytes_moved"] == 0, "the node that lived still has its copies"
    assert moved["data/shard_bytes_moved"] == sum(needed[1].values())
    assert moved["data/shard_cache_misses"] == len(needed[1])
