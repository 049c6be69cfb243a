"""Copies of a store's shards in node-local storage: bounded, checksummed on arrival, least recently used go first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from channels.errors import UserError
from channels.manifest import SHARD_FOLDER, Shard
from orchestrator.shard_cache.copying import copy_shard, is_intact

COPIES_AT_ONCE = 4


@dataclass(slots=True)
class CacheCounts:
    """bytes_moved: copied from the store. hits, misses: shards asked for that were there, or had to be copied."""

    bytes_moved: int = 0
    hits: int = 0
    misses: int = 0


class ShardCache:
    """Shards of one store under ``root``, laid out as in the store, so that a ``ChannelStore`` reads them there.

    Shards are held by name: what any holder holds is there and stays. So do shards that are kept, once they are there.
    Everything else goes, least recently used first, when there is no room. Removing only unlinks, so whoever has such a
    shard mapped goes on reading it. Thread safe.

    A folder with complete copies is used again; each is verified when it is first asked for, and what else lies there
    is removed.
    """

    def __init__(self, root: Path, capacity: int, source: Path, shards: Iterable[Shard]) -> None:
        self.root = root
        self._capacity = capacity
        self._source = source
        self._shards = {shard.file: shard for shard in shards}
        self._changed = threading.Condition()
        self._stored: OrderedDict[str, bool] = OrderedDict()
        """Whole copies, least recently used first; True once this cache has verified it."""
        self._arrivals: dict[str, Future[None]] = {}
        """Held shards that are being copied or verified."""
        self._held: dict[Hashable, set[str]] = {}
        self._kept: frozenset[str] = frozenset()
        self._counts = CacheCounts()
        self._pool = ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="shard-copy")
        self._adopt()

    def acquire(self, holder: Hashable, files: Sequence[str]) -> None:
        """Hold these shards as well; returns when all are there.

        Waits while others hold the room, and meanwhile holds none of them. Raises UserError where the shards are more
        than the capacity, one is missing or twice corrupt, or the disk is full; they are not held then.
        """
        wanted = set(files)
        self._check_capacity(wanted)
        with self._changed:
            self._changed.wait_for(lambda: self._bytes(self._staying() | wanted) <= self._capacity)
            added = wanted - self._held.setdefault(holder, set())
            self._held[holder] |= added
            self._evict()
            arrivals = self._start_arrivals(files)
        # All must end before the first error is raised: a shard stays held while it arrives.
        wait(arrivals)
        try:
            for arrival in arrivals:
                arrival.result()
        except BaseException:
            with self._changed:
                self._held[holder] -= added
                self._changed.notify_all()
            raise

    def release(self, holder: Hashable) -> None:
        """Let go of all shards; the holder must not be acquiring any."""
        with self._changed:
            self._held.pop(holder, None)
            self._changed.notify_all()

    def keep(self, files: Sequence[str]) -> list[str]:
        """Keep these shards and no others from now on; those that are not there yet, or not verified, in order."""
        with self._changed:
            self._kept = frozenset(files)
            self._changed.notify_all()
            return [file for file in files if not self._stored.get(file)]

    def keeps(self, files: Sequence[str]) -> bool:
        """Whether all of these are kept, there and verified."""
        with self._changed:
            # What is asked for last arrives last, so a look at the end mostly settles it.
            return all(file in self._kept and self._stored.get(file, False) for file in reversed(files))

    def counts(self) -> CacheCounts:
        """What happened so far."""
        with self._changed:
            return replace(self._counts)

    def close(self) -> None:
        """Wait for copies under way; the folder stays."""
        self._pool.shutdown()

    def _adopt(self) -> None:
        """Take over whole copies of a predecessor, oldest first, and remove its leftovers."""
        folder = self.root / SHARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        found = [path for path in folder.rglob("*") if not path.is_dir()]
        for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path)):
            file = path.relative_to(self.root).as_posix()
            shard = self._shards.get(file)
            if shard is None or path.stat().st_size != shard.bytes:
                path.unlink()
            else:
                self._stored[file] = False
        self._evict()

    def _bytes(self, files: Iterable[str]) -> int:
        return sum(self._shards[file].bytes for file in files)

    def _check_capacity(self, wanted: set[str]) -> None:
        needed = self._bytes(wanted)
        if needed > self._capacity:
            what = f"{len(wanted)} shards are needed at once, {size_text(needed)}; it holds {size_text(self._capacity)}"
            mend = "raise data.cache_gb, or use data.placement shared"
            raise UserError(what, where=f"shard cache {self.root}", mend=mend)

    def _staying(self) -> frozenset[str]:
        """Shards that must not be evicted, those that are about to arrive included."""
        return (self._kept & self._stored.keys()).union(*self._held.values())

    def _evict(self) -> None:
        staying = self._staying()
        used = self._bytes(staying | self._stored.keys())
        for file in [file for file in self._stored if file not in staying]:
            if used <= self._capacity:
                return
            del self._stored[file]
            (self.root / file).unlink()
            used -= self._shards[file].bytes

    def _start_arrivals(self, files: Sequence[str]) -> list[Future[None]]:
        """What must end until all shards are there; shards that were asked for before are waited for, not copied
        again."""
        arrivals = []
        for file in dict.fromkeys(files):
            if file in self._stored:
                self._stored.move_to_end(file)
            if self._stored.get(file):
                self._counts.hits += 1
            elif file in self._arrivals:
                self._counts.hits += 1
                arrivals.append(self._arrivals[file])
            else:
                self._arrivals[file] = self._pool.submit(self._arrive, file)
                arrivals.append(self._arrivals[file])
        return arrivals

    def _arrive(self, file: str) -> None:
        """Make a held shard whole and verified."""
        shard, moved, arrived = self._shards[file], 0, False
        try:
            if file not in self._stored or not is_intact(shard, self.root):
                moved = copy_shard(shard, self._source, self.root)
            arrived = True
        finally:
            with self._changed:
                del self._arrivals[file]
                self._stored.pop(file, None)
                if arrived:
                    self._stored[file] = True
                    self._counts.bytes_moved += moved
                    self._counts.misses += moved > 0
                    self._counts.hits += moved == 0
                self._changed.notify_all()


def size_text(size: int) -> str:
    """Bytes in a decimal unit, e.g. ``1.50 GB``."""
    if size < 1000:
        return f"{size} B"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.2f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
