import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.store import ChannelStore
from orchestrator.shard_cache import copying, server
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.shard_map import ShardMap
from tests.orchestrator.shard_cache.caches import catalogue_of, make_numbered_store, origins_of, settings_for

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
    return settings_for(store, shard_map, tmp_path / "run" / "node-0", 10**6, ranks=(0, 1))


@pytest.fixture
def opened(settings: CacheSettings) -> Iterator[Callable[..., NodeCache]]:
    caches = []

    def make(capacity: int = 10**6) -> NodeCache:
        caches.append(NodeCache(replace(settings, capacity=capacity)))
        return caches[-1]

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
    root = settings.folder
    for rank in (0, 1):
        cache.update(rank, 0, {0: files[:6], 1: files[6:12]})
    eventually(lambda: present(root) == set(files[:12]))
    eventually(lambda: cache.acquire("0/0/0", 0, files[:1]))
    cache.release("0/0/0")
    cache.update(0, 1, {1: files[6:12], 2: files[12:18]})
    assert cache.acquire("1/0/1", 0, files[:2]), "the other rank still reads epoch 0"
    cache.release("1/0/1")
    assert present(root) == set(files[:12])
    cache.update(1, 1, {1: files[6:12], 2: files[12:18]})
    eventually(lambda: cache.counts().misses == 18)
    assert present(root) == set(files[6:18])
    assert cache.counts().bytes_moved == sum(size[file] for file in files[:18])


def test_an_epoch_that_does_not_fit_is_leased_step_by_step(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...]
) -> None:
    size = {shard.file: shard.bytes for shard in settings.shards}
    cache = opened(sum(size[file] for file in files[:4]))
    for rank in (0, 1):
        cache.update(rank, 0, {0: files})
    for step, file in enumerate(files):
        assert not cache.acquire(f"0/0/{step}", 0, [file])
        assert file in present(settings.folder)
        cache.release(f"0/0/{step}")
    assert cache.counts().misses == len(files)


def test_no_epoch_is_whole_before_all_ranks_have_said_where_they_are(
    opened: Callable[..., NodeCache], files: tuple[str, ...]
) -> None:
    cache = opened()
    cache.update(0, 1, {1: files[6:12]})
    eventually(lambda: cache._cache.keeps(files[6:12]))
    assert not cache.acquire("0/1/0", 1, files[6:7]), "rank 1 may be an epoch behind and need the room"
    cache.update(1, 1, {1: files[6:12]})
    assert cache.acquire("0/1/1", 1, files[6:7])
    assert not cache.acquire("0/0/0", 0, ()), "epoch 0 is read"


def test_what_the_attempt_before_left_of_a_planned_epoch_is_not_copied_again(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...]
) -> None:
    """Nor evicted for others of the epoch, though they have been used less recently."""
    capacity = sum(shard.bytes for shard in settings.shards if shard.file in files[:8])
    first = opened(capacity)
    first.acquire("0/0/0", 0, files[6:8])
    first.acquire("0/0/1", 0, files[8:12])
    first.close()
    second = opened(capacity)
    for rank in (0, 1):
        second.update(rank, 0, {0: files[:8]})
    eventually(lambda: present(settings.folder) == set(files[:8]))
    assert second._cache._kept == set(files[:8])
    eventually(lambda: second.acquire("0/0/2", 0, ()))
    assert second.counts().misses == 6


def test_an_epoch_may_end_while_its_shards_arrive(
    opened: Callable[..., NodeCache], settings: CacheSettings, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, gate = copying.copy_hashed, threading.Event()

    def slow(source: Path, target: Path) -> str:
        gate.wait(20)
        return copy(source, target)

    monkeypatch.setattr(copying, "copy_hashed", slow)
    cache = opened()
    for rank in (0, 1):
        cache.update(rank, 0, {0: files[:8]})
    eventually(lambda: len(cache._cache._arrivals) > 0)
    for rank in (0, 1):
        cache.update(rank, 1, {1: files[8:12]})
    gate.set()
    eventually(lambda: cache._cache.keeps(files[8:12]))
    assert not cache._cache.keeps(files[:1])
    assert len(present(settings.folder)) <= 4 + 4, "one batch of the epoch that is read"
    cache.update(0, 1, {})


def test_an_error_while_copying_ahead_is_raised_at_the_next_call(
    opened: Callable[..., NodeCache], files: tuple[str, ...], store: ChannelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(source: Path, target: Path) -> str:
        target.write_bytes(b"x")
        return "0" * 64

    monkeypatch.setattr(copying, "copy_hashed", damaging)
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
        cache.acquire("0/0/0", 0, files[5:6])


def test_a_folder_in_use_is_waited_for_and_then_refused(
    opened: Callable[..., NodeCache], settings: CacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    threading.Timer(0.3, first.close).start()
    second = opened()
    assert second.folder == settings.folder
    monkeypatch.setattr(server, "PATIENCE_S", 0.3)
    with pytest.raises(UserError, match=r"node-0: another process keeps its shards here; end that run"):
        NodeCache(settings)


def test_a_folder_that_cannot_be_made_is_refused(settings: CacheSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"storage\.cache .*file/run: cannot be used for copies of shards"):
        NodeCache(replace(settings, folder=tmp_path / "file" / "run"))


def test_discard_removes_the_copies_and_the_last_one_the_run_s_folder(
    settings: CacheSettings, files: tuple[str, ...]
) -> None:
    run = settings.folder.parent
    caches = [NodeCache(replace(settings, folder=run / f"node-{number}")) for number in (0, 1)]
    caches[0].update(0, 0, {0: files[:3]})
    caches[0].discard()
    assert [path.name for path in run.iterdir()] == ["node-1"]
    caches[1].discard()
    assert not run.exists()
