"""The shard cache of a node, shared by its ranks: leases for single steps, whole epochs kept ahead of need."""

import fcntl
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from channels.errors import UserError
from channels.files import has_no_locks, no_locks
from channels.manifest import Shard
from orchestrator.shard_cache.store import COPIES_AT_ONCE, CacheCounts, ShardCache
from orchestrator.shard_cache.window import EpochWindow

LOCK = ".lock"
PATIENCE_S = 30.0
AHEAD = "ahead"
"""Holder of the shards that are copied before a step asks for them."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a node's cache is for. folder: of the copies, in node-local storage. capacity: bytes. store: folder of the
    store. shards: all that may be asked for. ranks: those of the node."""

    folder: Path
    capacity: int
    store: Path
    shards: tuple[Shard, ...]
    ranks: tuple[int, ...]


class NodeCache:
    """One a node and attempt. Raises UserError where the folder for the copies cannot be used.

    A step of a rank *leases* its shards: they are copied if need be and stay until they are released. Besides, shards
    of whole epochs are kept and copied in the background as :class:`EpochWindow` plans, so that leases mostly find them
    there. folder: where the copies lie.
    """

    def __init__(self, settings: CacheSettings) -> None:
        sizes = {shard.file: shard.bytes for shard in settings.shards}
        self._window = EpochWindow(settings.ranks, sizes, settings.capacity)
        self.folder = settings.folder
        try:
            self._lock = _lock_folder(self.folder)
            self._cache = ShardCache(self.folder, settings.capacity, settings.store, settings.shards)
        except OSError as error:
            what = f"cannot be used for copies of shards ({error})"
            raise UserError(what, where=f"storage.cache {self.folder}", mend="name a folder you may write") from error
        self._changed = threading.Condition()
        self._awaited: deque[str] = deque()
        """Planned shards that nobody has asked for yet, the most urgent first."""
        self._failure: Exception | None = None
        self._closed = False
        threading.Thread(target=self._copy_ahead, name="copy-ahead", daemon=True).start()

    def update(self, rank: int, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """See :meth:`EpochWindow.update`. Raises what went wrong in the background."""
        with self._changed:
            self._raise_failure()
            self._window.update(rank, position, epochs)
            self._awaited = deque(self._cache.keep(self._window.planned()))
            self._changed.notify_all()

    def acquire(self, lease: str, epoch: int, files: Sequence[str]) -> bool:
        """Lease shards; returns when all are there. True where all shards of the epoch are, and stay until all ranks
        have read it, so that no further leases are needed for it.

        Raises UserError as :meth:`ShardCache.acquire` does, and what went wrong in the background.
        """
        with self._changed:
            self._raise_failure()
        self._cache.acquire(lease, files)
        with self._changed:
            needed = self._window.files(epoch)
            return needed is not None and self._cache.keeps(needed)

    def release(self, lease: str) -> None:
        """End a lease."""
        self._cache.release(lease)

    def counts(self) -> CacheCounts:
        """What happened since this cache was made."""
        return self._cache.counts()

    def close(self) -> None:
        """Stop copying; the copies stay for the next attempt."""
        self._stop()
        self._lock.close()

    def discard(self) -> None:
        """Stop copying and remove the copies; the last cache on the machine removes the run's folder, too."""
        self._stop()
        shutil.rmtree(self.folder)
        self._lock.close()
        # It fails as long as other nodes of Ray on this machine have their copies in it.
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._cache.close()

    def _copy_ahead(self) -> None:
        try:
            while batch := self._next_batch():
                self._cache.acquire(AHEAD, batch)
                self._cache.release(AHEAD)
        except Exception as error:
            with self._changed:
                self._failure = error

    def _next_batch(self) -> list[str]:
        """The next shards to copy, few so that steps need not wait long behind them; none when the cache is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited or self._closed)
            few = 0 if self._closed else min(COPIES_AT_ONCE, len(self._awaited))
            return [self._awaited.popleft() for _ in range(few)]


def _lock_folder(folder: Path) -> TextIO:
    """Make the folder if need be and keep other processes out as long as this one lives or until the file is closed.

    A folder in use is waited for, since the cache of the attempt before may be ending. Raises UserError where it stays
    in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                mend = "end that run, or give this one another name"
                raise UserError("another process keeps its shards here", where=str(folder), mend=mend) from None
            time.sleep(0.1)
        except OSError as error:
            lock.close()
            if has_no_locks(error):
                raise no_locks(folder) from None
            raise
