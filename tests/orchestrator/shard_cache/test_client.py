"""The client against an actor in this process, and what the failure policy makes of a dead one."""

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from orchestrator.control.failure_policy import Kind, classify, decide
from orchestrator.run.adjustments import Adjustments
from orchestrator.shard_cache.client import CacheHost, RemoteNodeCache, ShardCacheDiedError
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from orchestrator.spec.failures import FailuresSection
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store, origins_of, settings_for

SAMPLES = 24


@dataclass
class Call:
    """A method of an actor; what it raises is handed over as Ray does."""

    actor: "Actor"
    method: str

    def options(self, *, concurrency_group: str) -> "Call":
        assert concurrency_group == "leases"
        return self

    def remote(self, *arguments: Any) -> Any:
        from ray.exceptions import ActorDiedError, RayTaskError

        if self.actor.dead:
            return ActorDiedError()
        try:
            return getattr(self.actor.host, self.method)(*arguments)
        except Exception as error:
            return RayTaskError(self.method, "", error)


class Actor:
    """Stands for a Ray actor and for what makes one."""

    def __init__(self) -> None:
        self.dead = False
        self.made: dict[str, Any] = {}

    def options(self, **options: Any) -> "Actor":
        self.made = options
        return self

    def remote(self, settings: CacheSettings) -> "Actor":
        self.host = CacheHost(settings)
        return self

    open = property(lambda self: Call(self, "open"))
    call = property(lambda self: Call(self, "call"))

    @property
    def cache(self) -> NodeCache:
        assert self.host._cache is not None
        return self.host._cache


def get(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    store = make_numbered_store(tmp_path / "store", SAMPLES)
    shard_map = ShardMap.of(store, catalogue_of(store, SAMPLES), origins_of(store))
    return settings_for(store, shard_map, tmp_path / "run" / "node-0", 10**6)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setattr("ray.remote", lambda **options: lambda cls: actor)
    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.kill", lambda killed: setattr(killed, "dead", True))
    return actor


def test_calls_reach_the_cache_of_the_node(settings: CacheSettings, actor: Actor) -> None:
    files = [shard.file for shard in settings.shards]
    cache = RemoteNodeCache(settings, "cache of the node", "ab" * 28)
    assert (actor.made["name"], actor.made["get_if_exists"]) == ("cache of the node", True)
    assert cache.folder == settings.folder
    assert not cache.acquire("0/0/0", 0, files[:2])
    assert actor.cache._cache._held["0/0/0"] == set(files[:2])
    cache.update(0, 0, {0: files[:2]})
    assert cache.acquire("0/0/1", 0, files[:1])
    cache.release("0/0/0")
    assert "0/0/0" not in actor.cache._cache._held
    assert cache.counts().misses == 2
    cache.discard()
    assert actor.dead and not settings.folder.parent.exists()


def test_an_error_of_the_user_is_raised_as_itself(settings: CacheSettings, actor: Actor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^storage\.cache .*file/node-0: cannot be used"):
        RemoteNodeCache(replace(settings, folder=tmp_path / "file" / "node-0"), "name", "ab" * 28)
    cache = RemoteNodeCache(replace(settings, capacity=1), "name", "ab" * 28)
    with pytest.raises(UserError, match="shards are needed at once"):
        cache.acquire("0/0/0", 0, [settings.shards[0].file])
    actor.cache.close()


def test_a_dead_cache_ends_the_attempt_and_the_next_one_finds_the_copies(settings: CacheSettings, actor: Actor) -> None:
    files = [shard.file for shard in settings.shards]
    first = RemoteNodeCache(settings, "first", "ab" * 28)
    first.acquire("0/0/0", 0, files[:3])
    actor.dead = True
    actor.cache.close()
    with pytest.raises(ShardCacheDiedError, match="died unexpectedly") as raised:
        first.release("0/0/0")
    error = pickle.loads(pickle.dumps(raised.value))
    failure, cause = classify({0: RuntimeError("Connection closed by peer"), 1: error})
    assert (failure.kind, failure.rank) == (Kind.WORKER, 1), "and not the rank that fails in its wake"
    assert failure.cause.startswith("ShardCacheDiedError: the process that copies shards to this node died")
    assert decide(FailuresSection(), [failure.kind], cause, Adjustments()).retry
    error.preempted = True
    assert classify({1: pickle.loads(pickle.dumps(error))})[0].kind == Kind.PREEMPTION
    actor.dead = False
    second = RemoteNodeCache(settings, "second", "ab" * 28)
    second.acquire("0/0/0", 0, files[:3])
    assert (second.counts().misses, second.counts().hits) == (0, 3)
    second.discard()
