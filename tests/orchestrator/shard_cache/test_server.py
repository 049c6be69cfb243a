import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.shard_cache import server as node_cache
from orchestrator.shard_cache import store as shard_cache
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store, open_node, origins_of, settings_for

SAMPLES = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ChannelStore:
    return make_numbered_store(tmp_path_factory.mktemp("source") / "store", SAMPLES)


@pytest.fixture(scope="module")
def files(store: ChannelStore) -> tuple[str, ...]:
    return ShardMap.of(store, catalogue_of(store, SAMPLES), origins_of(store)).all_files()


@pytest.fixture
def settings(store: ChannelStore, tmp_path: Path) -> CacheSettings:
    shard_map = ShardMap.of(store, catalogue_of(store, SAMPLES), origins_of(store))
    return settings_for(store, shard_map, tmp_path / "run", 10**6, ranks=(0, 1))


@pytest.fixture
def opened(settings: CacheSettings) -> Iterator[Callable[..., NodeCache]]:
    caches = []

    def make(capacity: int = 10**6, folder: Path | None = None) -> NodeCache:
        cache, _ = open_node(replace(settings, capacity=capacity), folder)
        caches.append(cache)
        return cache

    yield make
    for cache in caches:
        cache.close()


def present(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_epochs_are_copied_ahead_and_dropped_when_read(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...], store: ChannelStore
) -> None:
    size = {shard.file: shard.bytes for shard in settings.shards}
    cache = opened(sum(size[file] for file in files[:12]))
    root = settings.folder / "node-0"
    for rank in (0, 1):
        cache.update(rank, 0, {0: files[:6], 1: files[6:12]})
    eventually(lambda: present(root) == set(files[:12]))
    eventually(lambda: cache.acquire(0, "0/0", 0, files[:1]))
    cache.release(0, "0/0")
    cache.update(0, 1, {1: files[6:12], 2: files[12:18]})
    assert cache.acquire(1, "0/1", 0, files[:2]), "the other rank still reads epoch 0"
    cache.release(1, "0/1")
    assert present(root) == set(files[:12])
    cache.update(1, 1, {1: files[6:12], 2: files[12:18]})
    eventually(lambda: present(root) == set(files[6:18]))
    counts = cache.counts()
    assert counts.bytes_moved == sum(size[file] for file in files[:18])
    assert (counts.misses, counts.evictions) == (18, 6)


def test_an_epoch_that_does_not_fit_is_leased_step_by_step(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...]
) -> None:
    size = {shard.file: shard.bytes for shard in settings.shards}
    cache = opened(sum(size[file] for file in files[:4]))
    for rank in (0, 1):
        cache.update(rank, 0, {0: files})
    for step, file in enumerate(files):
        assert not cache.acquire(0, f"0/{step}", 0, [file])
        assert file in present(settings.folder / "node-0")
        cache.release(0, f"0/{step}")
    assert cache.counts().evictions >= len(files) - 4


def test_nothing_is_evicted_before_all_ranks_have_told(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...]
) -> None:
    size = {shard.file: shard.bytes for shard in settings.shards}
    capacity = sum(size[file] for file in files[:6])
    first = opened(capacity)
    for rank in (0, 1):
        first.update(rank, 0, {0: files[:6]})
    eventually(lambda: present(settings.folder / "node-0") == set(files[:6]))
    first.close()
    second = opened(capacity, settings.folder / "node-0")
    second.update(0, 1, {1: files[6:12]})
    leased = threading.Thread(target=second.acquire, args=(0, "1/0", 1, files[6:7]))
    leased.start()
    leased.join(0.3)
    assert leased.is_alive()
    assert present(settings.folder / "node-0") == set(files[:6]), "rank 1 may be reading them"
    second.update(1, 1, {1: files[6:12]})
    assert not second.acquire(1, "none", 0, ()), "epoch 0 is read"
    leased.join(20)
    assert not leased.is_alive()
    eventually(lambda: present(settings.folder / "node-0") == set(files[6:12]))


def test_what_a_predecessor_left_of_a_planned_epoch_is_kept_at_once(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that reads the epoch without leases relies on it, long before everything is verified again."""
    first = opened()
    for rank in (0, 1):
        first.update(rank, 0, {0: files[:8]})
    eventually(lambda: present(settings.folder / "node-0") == set(files[:8]))
    first.close()
    gate = threading.Event()
    monkeypatch.setattr(shard_cache.ShardCache, "_is_intact", lambda cache, file: gate.wait(20))
    second = opened(folder=settings.folder / "node-0")
    for rank in (0, 1):
        second.update(rank, 0, {0: files[:8]})
    assert second._cache.held("epochs") == set(files[:8])
    gate.set()


def test_an_epoch_may_end_while_its_shards_arrive(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, gate = shard_cache.copy_hashed, threading.Event()

    def slow(source: Path, target: Path) -> str:
        gate.wait(20)
        return copy(source, target)

    monkeypatch.setattr(shard_cache, "copy_hashed", slow)
    cache = opened()
    for rank in (0, 1):
        cache.update(rank, 0, {0: files[:8]})
    eventually(lambda: len(cache._cache.held("epochs")) > 0)
    for rank in (0, 1):
        cache.update(rank, 1, {1: files[8:12]})
    gate.set()
    eventually(lambda: set(files[8:12]) <= present(settings.folder / "node-0"))
    eventually(lambda: cache._cache.held("epochs") == set(files[8:12]))
    cache.update(0, 1, {})


def test_an_error_while_copying_ahead_is_raised_at_the_next_call(
    opened: Callable[..., NodeCache], files: tuple[str, ...], store: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(source: Path, target: Path) -> str:
        target.write_bytes(b"x")
        return "0" * 64

    monkeypatch.setattr(shard_cache, "copy_hashed", damaging)
    cache = opened()
    cache.update(0, 0, {0: files[:1]})

    def failed() -> bool:
        try:
            cache.update(1, 0, {0: files[:1]})
        except UserError as error:
            return Path(files[0]).name in str(error)
        return False

    eventually(failed)
    with pytest.raises(UserError, match="the shard is corrupt"):
        cache.acquire(0, "0/0", 0, files[5:6])


def test_opening_again_changes_nothing_and_another_group_is_told_apart(
    opened: Callable[..., NodeCache], settings: CacheSettings
) -> None:
    cache = opened()
    assert cache.open(settings, None) == settings.folder / "node-0"
    assert cache.open(replace(settings, attempt="the next"), None) is None


def test_every_living_cache_has_its_own_folder(opened: Callable[..., NodeCache], settings: CacheSettings) -> None:
    first, second = opened(), opened()
    assert second.open(settings, None) == settings.folder / "node-1"
    first.close()
    assert opened().open(settings, None) == settings.folder / "node-0"


def test_a_folder_in_use_is_waited_for_and_then_refused(
    opened: Callable[..., NodeCache], settings: CacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "LOCK_PATIENCE_S", 0.3)
    first = opened()
    with pytest.raises(UserError, match=r"node-0: another process uses this shard cache"):
        NodeCache().open(settings, settings.folder / "node-0")
    threading.Timer(0.1, first.close).start()
    assert opened(folder=settings.folder / "node-0").open(settings, None) == settings.folder / "node-0"


def test_a_folder_that_cannot_be_made_is_refused(settings: CacheSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"storage\.cache .*file/run: cannot be used for copies of shards"):
        NodeCache().open(replace(settings, folder=tmp_path / "file" / "run"), None)


def test_discard_removes_what_the_run_left(settings: CacheSettings, files: tuple[str, ...]) -> None:
    dead, _ = open_node(settings)
    living, _ = open_node(settings)
    last, _ = open_node(settings)
    dead.close()
    last.update(0, 0, {0: files[:3]})
    last.discard()
    assert sorted(path.name for path in settings.folder.iterdir()) == ["node-1", "node-1.lock"]
    living.discard()
    assert not settings.folder.exists()
