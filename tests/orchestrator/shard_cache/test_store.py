import errno
import hashlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from channels.errors import UserError
from channels.manifest import Shard
from channels.store import ChannelStore
from orchestrator.shard_cache import copying
from orchestrator.shard_cache.store import CacheCounts, ShardCache, size_text

SIZES = (100, 150, 200, 250, 300, 350)
NAMES = [f"shards/S{number % 2}/train-{number:05d}.safetensors" for number in range(len(SIZES))]
SIZE = dict(zip(NAMES, SIZES, strict=True))


def make_source(root: Path) -> list[Shard]:
    """Files of random bytes laid out as a store."""
    shards = []
    for number, (name, size) in enumerate(SIZE.items()):
        content = random.Random(number).randbytes(size)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        shards.append(Shard(name, 1, size, hashlib.sha256(content).hexdigest()))
    return shards


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return make_source(tmp_path / "source")


@pytest.fixture
def open_cache(tmp_path: Path, shards: list[Shard]) -> Iterator[Callable[..., ShardCache]]:
    caches = []

    def make(capacity: int = sum(SIZES)) -> ShardCache:
        caches.append(ShardCache(tmp_path / "cache", capacity, tmp_path / "source", shards))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


def held(cache: ShardCache, holder: Hashable) -> set[str]:
    return cache._held.get(holder, set())


def spoil(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Damage the first copies on their way."""
    copy, left = copying.copy_hashed, iter(range(times))

    def damaging(source: Path, target: Path) -> str:
        digest = copy(source, target)
        if next(left, None) is None:
            return digest
        target.write_bytes(b"x" * target.stat().st_size)
        return hashlib.sha256(target.read_bytes()).hexdigest()

    monkeypatch.setattr(copying, "copy_hashed", damaging)


def test_copies_are_where_a_channel_store_looks_for_them(small_store: Path, tmp_path: Path) -> None:
    store = ChannelStore.open(small_store)
    shards = store.sets["R1"].splits["train"].shards
    cache = ShardCache(tmp_path, 10**9, small_store, shards)
    cache.acquire("rank", [shard.file for shard in shards])
    copied = ChannelStore(tmp_path, store.sets)
    index = np.asarray([44, 3, 17], np.int64)
    assert np.array_equal(copied.read("R1", "train", index), store.read("R1", "train", index))
    assert cache.counts() == CacheCounts(sum(shard.bytes for shard in shards), 0, len(shards))
    with pytest.raises(UserError, match="missing"):
        copied.read("R2", "train", index)
    cache.close()


def test_an_evicted_shard_stays_readable_until_it_is_forgotten(small_store: Path, tmp_path: Path) -> None:
    store = ChannelStore.open(small_store)
    first, second = store.sets["R1"].splits["train"].shards[:2]
    cache = ShardCache(tmp_path, first.bytes + second.bytes - 1, small_store, [first, second])
    cache.acquire("rank", [first.file])
    copied = ChannelStore(tmp_path, store.sets)
    before = copied.read("R1", "train", np.arange(3))
    cache.release("rank")
    cache.acquire("rank", [second.file])
    assert files_below(tmp_path) == {second.file}
    assert np.array_equal(copied.read("R1", "train", np.arange(3)), before)
    copied.forget([first.file])
    assert "(deleted)" not in "".join(
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line
    )
    with pytest.raises(UserError, match=Path(first.file).name):
        copied.read("R1", "train", np.arange(3))
    cache.close()


def test_a_corrupt_copy_is_made_once_more(
    open_cache: Callable[..., ShardCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    spoil(monkeypatch, times=1)
    cache.acquire("rank", NAMES[:1])
    assert (cache.root / NAMES[0]).stat().st_size == SIZES[0]
    assert cache.counts() == CacheCounts(bytes_moved=2 * SIZES[0], misses=1)


def test_a_shard_corrupt_twice_is_named(tmp_path: Path, open_cache: Callable[..., ShardCache]) -> None:
    cache = open_cache()
    (tmp_path / "source" / NAMES[2]).write_bytes(b"y" * SIZES[2])
    with pytest.raises(UserError, match=rf"source/{NAMES[2]}: the shard is corrupt: 2 copies.*channels verify"):
        cache.acquire("rank", NAMES[:4])
    assert held(cache, "rank") == set()
    assert files_below(cache.root) == {NAMES[0], NAMES[1], NAMES[3]}
    cache.acquire("rank", [NAMES[0], NAMES[1]])
    assert cache.counts().hits == 2


def test_a_missing_shard_and_a_full_disk_are_explained(
    tmp_path: Path, open_cache: Callable[..., ShardCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    (tmp_path / "source" / NAMES[0]).unlink()
    with pytest.raises(UserError, match="missing in the store"):
        cache.acquire("rank", NAMES[:1])

    def full(source: Path, target: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying, "copy_hashed", full)
    with pytest.raises(UserError, match=r"disk of the shard cache is full; lower data\.cache_gb"):
        cache.acquire("rank", NAMES[1:2])


def test_more_than_the_capacity_is_refused_with_both_sizes(open_cache: Callable[..., ShardCache]) -> None:
    with pytest.raises(UserError, match=r"3 shards are needed at once, 450 B; it holds 449 B; raise data\.cache_gb"):
        open_cache(449).acquire("rank", NAMES[:3])


def test_a_successor_uses_whole_copies_again(tmp_path: Path, open_cache: Callable[..., ShardCache]) -> None:
    first = open_cache()
    first.acquire("rank", NAMES[:4])
    first.close()
    folder = tmp_path / "cache" / "shards"
    (folder / "S0" / f".part{copying.INCOMING}").write_bytes(b"half")
    (folder / "S1" / "of_another_store.safetensors").write_bytes(b"other")
    (tmp_path / "cache" / NAMES[1]).write_bytes(b"short")
    (tmp_path / "cache" / NAMES[2]).write_bytes(b"z" * SIZES[2])
    second = open_cache()
    assert files_below(second.root) == {NAMES[0], NAMES[2], NAMES[3]}
    second.acquire("rank", NAMES[:4])
    assert second.counts().bytes_moved == SIZES[1] + SIZES[2]
    for name in NAMES[:4]:
        assert (second.root / name).read_bytes() == (tmp_path / "source" / name).read_bytes()


def test_a_smaller_successor_evicts_the_oldest(tmp_path: Path, open_cache: Callable[..., ShardCache]) -> None:
    first = open_cache()
    for name in (NAMES[3], NAMES[0], NAMES[1]):
        first.acquire("rank", [name])
    first.close()
    assert files_below(open_cache(250).root) == {NAMES[0], NAMES[1]}


def test_the_least_recently_used_go_first(open_cache: Callable[..., ShardCache]) -> None:
    cache = open_cache(600)
    for name in (NAMES[0], NAMES[1], NAMES[2], NAMES[0]):
        cache.acquire("rank", [name])
        cache.release("rank")
    cache.acquire("rank", [NAMES[3]])
    assert files_below(cache.root) == {NAMES[0], NAMES[2], NAMES[3]}


def test_room_is_waited_for(open_cache: Callable[..., ShardCache]) -> None:
    cache = open_cache(600)
    cache.acquire("one", NAMES[:2])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.acquire, "two", NAMES[2:4])
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        assert held(cache, "two") == set()
        cache.release("one")
        waiting.result(10)
    assert set(NAMES[2:4]) <= files_below(cache.root)


def test_kept_shards_stay_once_they_are_there(open_cache: Callable[..., ShardCache]) -> None:
    cache = open_cache(600)
    cache.acquire("rank", NAMES[:1])
    assert cache.keep(NAMES[:2]) == NAMES[1:2]
    assert not cache.keeps(NAMES[:2])
    cache.release("rank")
    cache.acquire("rank", NAMES[1:2])
    cache.release("rank")
    assert cache.keeps(NAMES[:2])
    assert not cache.keeps(NAMES[:3])
    for name in (NAMES[2], NAMES[3], NAMES[2]):
        cache.acquire("rank", [name])
        cache.release("rank")
    assert cache.keeps(NAMES[:2]), "though they were used least recently"
    assert cache.keep([]) == []
    cache.acquire("rank", NAMES[3:5])
    assert files_below(cache.root) == set(NAMES[3:5])


def test_one_copy_serves_all_who_ask_at_once(
    open_cache: Callable[..., ShardCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    copy, gate = copying.copy_hashed, threading.Event()

    def slow(source: Path, target: Path) -> str:
        gate.wait(10)
        return copy(source, target)

    monkeypatch.setattr(copying, "copy_hashed", slow)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.acquire, holder, NAMES[:2]) for holder in range(4)]
        gate.set()
        for each in asked:
            each.result(10)
    assert cache.counts() == CacheCounts(bytes_moved=SIZES[0] + SIZES[1], hits=6, misses=2)


def test_who_waits_for_a_copy_that_fails_fails_with_it(
    open_cache: Callable[..., ShardCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    gate = threading.Event()

    def damaging(source: Path, target: Path) -> str:
        gate.wait(10)
        target.write_bytes(b"x")
        return "0" * 64

    monkeypatch.setattr(copying, "copy_hashed", damaging)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(cache.acquire, holder, NAMES[:1]) for holder in ("one", "two")]
        deadline = time.monotonic() + 10
        while len(cache._held) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gate.set()
        errors = [each.exception(10) for each in asked]
    assert [type(error) for error in errors] == [UserError, UserError]
    assert held(cache, "one") == held(cache, "two") == set()
    monkeypatch.undo()
    cache.acquire("one", NAMES[:1])
    assert files_below(cache.root) == {NAMES[0]}


def test_many_threads_never_exceed_the_capacity(open_cache: Callable[..., ShardCache]) -> None:
    cache = open_cache(700)

    def read_often(rank: int) -> None:
        draw = random.Random(rank)
        for turn in range(40):
            wanted = draw.sample(NAMES, 2)
            cache.acquire((rank, turn), wanted)
            present = files_below(cache.root)
            assert set(wanted) <= present
            assert sum(SIZE.get(name, 0) for name in present) <= 700
            cache.release((rank, turn))

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(read_often, rank) for rank in range(4)]:
            each.result(60)
    counts = cache.counts()
    assert counts.hits + counts.misses == 4 * 40 * 2
    assert counts.misses > len(NAMES), "some were evicted and copied again"


class LeastRecentlyUsed(RuleBasedStateMachine):
    """Random use by one thread against what "least recently used, unless held" means."""

    @initialize(capacity=st.integers(400, 1200))
    def open(self, capacity: int) -> None:
        self.folder = Path(mkdtemp())
        self.shards = make_source(self.folder / "source")
        self.capacity = capacity
        self.held: dict[int, set[str]] = {}
        self.kept: set[str] = set()
        self.bytes_moved = 0
        self.reopen()

    @precondition(lambda self: not any(self.held.values()))
    @rule()
    def reopen(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
        self.cache = ShardCache(self.folder / "cache", self.capacity, self.folder / "source", self.shards)
        self.kept = set()
        self.last_used = dict.fromkeys(NAMES, 0)
        self.clock = 0
        self.bytes_moved = 0
        self.copied = self.asked = 0

    @rule(holder=st.integers(0, 2), wanted=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    def acquire(self, holder: int, wanted: set[str]) -> None:
        before = files_below(self.cache.root)
        if sum(SIZE[name] for name in self._staying(before) | wanted) > self.capacity:
            return
        self.cache.acquire(holder, sorted(wanted))
        self.held.setdefault(holder, set()).update(wanted)
        self.clock += 1
        self.last_used |= dict.fromkeys(wanted, self.clock)
        self.copied += len(wanted - before)
        self.asked += len(wanted)
        self.bytes_moved += sum(SIZE[name] for name in wanted - before)
        self._check_evicted(before, files_below(self.cache.root))

    def _check_evicted(self, before: set[str], now: set[str]) -> None:
        evicted, left = before - now, now - self._staying(before)
        if not evicted:
            return
        assert not evicted & self._staying(before)
        newest = max(self.last_used[name] for name in evicted)
        assert all(self.last_used[name] >= newest for name in left)
        assert sum(SIZE[name] for name in now) + max(SIZE[name] for name in evicted) > self.capacity

    def _staying(self, present: set[str]) -> set[str]:
        return (self.kept & present).union(*self.held.values())

    @rule(holder=st.integers(0, 2))
    def release(self, holder: int) -> None:
        self.cache.release(holder)
        self.held.pop(holder, None)

    @rule(some=st.sets(st.sampled_from(NAMES)))
    def keep(self, some: set[str]) -> None:
        self.cache.keep(sorted(some))
        self.kept = some

    @invariant()
    def holds_what_it_should(self) -> None:
        present = files_below(self.cache.root)
        assert set().union(*self.held.values()) <= present
        assert sum(SIZE[name] for name in present) <= self.capacity
        for holder, names in self.held.items():
            assert held(self.cache, holder) == names
        counts = self.cache.counts()
        assert (counts.bytes_moved, counts.misses) == (self.bytes_moved, self.copied)
        assert counts.hits == self.asked - self.copied

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            shutil.rmtree(self.folder)


TestLeastRecentlyUsed = LeastRecentlyUsed.TestCase
TestLeastRecentlyUsed.settings = settings(max_examples=60, stateful_step_count=25)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_500_000, "1.50 MB"),
        (2 * 10**9, "2.00 GB"),
        (10**15, "1000.00 TB"),
    ],
)
def test_size_text(size: int, text: str) -> None:
    assert size_text(size) == text
