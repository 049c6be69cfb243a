"""The client against caches in this process that die when told to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.shard_cache import client as node_cache_client
from orchestrator.shard_cache.client import NodeCacheClient
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store, origins_of, settings_for

SAMPLES = 24


@dataclass(eq=False)
class Actor:
    """Stands for an actor. dies_after: a method after whose next call it is dead."""

    cache: NodeCache
    dead: bool = False
    dies_after: str = ""

    def die(self) -> None:
        self.dead = True
        self.cache.close()


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    store = make_numbered_store(tmp_path / "store", SAMPLES)
    shard_map = ShardMap.of(store, catalogue_of(store, SAMPLES), origins_of(store))
    return settings_for(store, shard_map, tmp_path / "run", 10**6)


@pytest.fixture
def actors(settings: CacheSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Actor]]:
    """All that the client made; the last one lives."""
    from ray.exceptions import RayActorError

    made: list[Actor] = []

    def ask(actor: Actor, method: str, *arguments: Any) -> Any:
        if actor.dead:
            raise RayActorError
        answer = getattr(actor.cache, method)(*arguments)
        if method == actor.dies_after:
            actor.die()
        return answer

    def connect(client: NodeCacheClient) -> Actor:
        made.append(Actor(NodeCache()))
        client._folder = ask(made[-1], "open", settings, client._folder)
        return made[-1]

    monkeypatch.setattr(node_cache_client, "_ask", ask)
    monkeypatch.setattr(node_cache_client, "PAUSE_S", 0.0)
    monkeypatch.setattr(NodeCacheClient, "_connect", connect)
    yield made
    if made and not made[-1].dead:
        made[-1].cache.close()


def leased(actor: Actor, lease: str) -> set[str]:
    return actor.cache._cache.held((0, lease))


def test_the_next_cache_is_told_everything_again(settings: CacheSettings, actors: list[Actor]) -> None:
    files = [shard.file for shard in settings.shards]
    client = NodeCacheClient(settings, "run", "node", rank=0)
    client.update(0, {0: files[:3], 1: files[3:6]})
    for number, lease in enumerate(("0/0", "0/1", "0/2")):
        client.acquire(lease, 0, files[number : number + 2])
    client.release("0/1")
    folder = client.folder
    actors[0].die()
    client.release("0/2")
    assert len(actors) == 2
    assert client.folder == folder == settings.folder / "node-0"
    assert leased(actors[1], "0/0") == set(files[:2])
    assert leased(actors[1], "0/1") == leased(actors[1], "0/2") == set()
    assert actors[1].cache._window.planned() == tuple(files[:6])
    assert client.counts().bytes_moved < sum(shard.bytes for shard in settings.shards[:6])


def test_a_lease_of_a_cache_that_died_at_once_is_asked_for_again(settings: CacheSettings, actors: list[Actor]) -> None:
    """Another thread finds the cache dead and makes the next one before the first thread notes its lease."""
    files = [shard.file for shard in settings.shards]
    client = NodeCacheClient(settings, "run", "node", rank=0)
    actors[0].dies_after = "acquire"
    call = client._call

    def call_and_look(method: str, *arguments: Any) -> Any:
        answer = call(method, *arguments)
        if method == "acquire" and len(actors) == 1:
            call("counts")
        return answer

    client._call = call_and_look  # type: ignore[method-assign]
    client.acquire("0/0", 0, files[:2])
    assert len(actors) == 2
    assert leased(actors[1], "0/0") == set(files[:2])


def test_it_gives_up_on_caches_that_keep_dying(
    settings: CacheSettings, actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import RayActorError

    client = NodeCacheClient(settings, "run", "node", rank=0)
    connect = NodeCacheClient._connect

    def connect_to_a_mortal(mortal: NodeCacheClient) -> Actor:
        actor = connect(mortal)
        actor.die()
        return actor

    monkeypatch.setattr(NodeCacheClient, "_connect", connect_to_a_mortal)
    actors[0].die()
    with pytest.raises(RayActorError):
        client.counts()
    assert len(actors) == node_cache_client.LIVES
