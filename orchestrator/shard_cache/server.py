"""The shard cache of a node, shared by its ranks: leases for single steps, whole epochs kept ahead of need."""

import fcntl
import os
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
from channels.manifest import Shard
from orchestrator.shard_cache.store import COPIES_AT_ONCE, CacheCounts, ShardCache
from orchestrator.shard_cache.window import EpochWindow

LOCK = ".lock"
"""Suffix of the file beside a folder that its owner locks."""
FOLDER = "node-"
LOCK_PATIENCE_S = 30.0
EPOCHS = "epochs"
"""Holder of the shards that are kept for whole epochs."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a node's cache is for. attempt: the worker group it serves. folder: the run's folder in node-local storage.
    capacity: bytes. store: folder of the store. shards: all that may be asked for. ranks: those of the node."""

    attempt: str
    folder: Path
    capacity: int
    store: Path
    shards: tuple[Shard, ...]
    ranks: tuple[int, ...]


class NodeCache:
    """One a node; a Ray actor in a run, a plain object in tests.

    A step of a rank *leases* its shards: they are copied if need be and stay until they are released. Beside that,
    shards of whole epochs are kept and copied in the background as :class:`EpochWindow` plans, so that leases mostly
    find them there. Nothing is evicted before every rank has called :meth:`update`: when a dead cache is replaced, what
    the ranks are reading stays until all have said so.
    """

    def __init__(self) -> None:
        self._settings: CacheSettings | None = None
        self._changed = threading.Condition()

    def open(self, settings: CacheSettings, folder: Path | None) -> Path | None:
        """Take ``folder``, else one of the run's that no living cache has; returns it, None if this cache serves
        another worker group. Opening again changes nothing. Raises UserError for a folder that cannot be used."""
        with self._changed:
            if self._settings is None:
                self._start(settings, folder)
            return self._cache.root if self._settings == settings else None

    def update(self, rank: int, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """See :meth:`EpochWindow.update`. Raises what went wrong in the background."""
        with self._changed:
            self._raise_failure()
            self._window.update(rank, position, epochs)
            self._keep_planned()
            if self._window.complete:
                self._cache.start_evicting()
            self._changed.notify_all()

    def acquire(self, rank: int, lease: str, epoch: int, files: Sequence[str]) -> bool:
        """Lease shards: returns when all are there. Whether all shards of the epoch are, and stay until all ranks have
        read it: then the rank needs no further leases for it.

        Raises UserError as :meth:`ShardCache.acquire` does, and what went wrong in the background.
        """
        with self._changed:
            self._raise_failure()
        self._cache.acquire((rank, lease), files)
        with self._changed:
            return self._window.is_whole(epoch, self._arrived)

    def release(self, rank: int, lease: str) -> None:
        """End a lease."""
        self._cache.release((rank, lease))

    def counts(self) -> CacheCounts:
        """What happened since this cache was opened."""
        return self._cache.counts()

    def close(self) -> None:
        """Stop copying; the folder stays for a successor."""
        self._stop()
        self._lock.close()

    def discard(self) -> None:
        """Stop copying and remove the copies, those that dead caches of the run left on this node included."""
        self._stop()
        root = self._cache.root
        _remove(root, self._lock)
        for left in root.parent.glob(f"{FOLDER}*{LOCK}"):
            lock = _try_lock(left)
            if lock is not None:
                _remove(left.with_suffix(""), lock)
        # Another cache on this machine may be doing the same.
        with suppress(FileNotFoundError):
            if not any(root.parent.iterdir()):
                root.parent.rmdir()

    def _start(self, settings: CacheSettings, folder: Path | None) -> None:
        try:
            root, self._lock = _claim(settings.folder, folder)
            self._cache = ShardCache(root, settings.capacity, settings.store, settings.shards, evicting=False)
        except OSError as error:
            what = f"cannot be used for copies of shards ({error})"
            raise UserError(
                what, where=f"storage.cache {settings.folder}", mend="name a folder you may write"
            ) from error
        sizes = {shard.file: shard.bytes for shard in settings.shards}
        self._window = EpochWindow(settings.ranks, sizes, settings.capacity)
        self._planned: frozenset[str] = frozenset()
        self._awaited: deque[str] = deque()
        self._arriving: tuple[str, ...] = ()
        self._arrived: set[str] = set()
        self._failure: Exception | None = None
        self._closed = False
        self._settings = settings
        threading.Thread(target=self._copy_ahead, name="copy-ahead", daemon=True).start()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._cache.close()

    def _keep_planned(self) -> None:
        """Hold what is planned and there, let go of what is not planned any more, note what is to be copied."""
        planned = self._window.planned()
        self._planned = frozenset(planned)
        self._cache.release(EPOCHS, self._cache.held(EPOCHS).difference(planned, self._arriving))
        self._cache.hold_stored(EPOCHS, planned)
        self._arrived &= self._planned
        self._awaited = deque(file for file in planned if file not in self._arrived)

    def _copy_ahead(self) -> None:
        while batch := self._next_batch():
            try:
                self._cache.acquire(EPOCHS, batch)
            except Exception as error:
                with self._changed:
                    self._failure = error
                    return
            with self._changed:
                self._arriving = ()
                self._arrived.update(self._planned.intersection(batch))
                self._cache.release(EPOCHS, set(batch) - self._planned)

    def _next_batch(self) -> tuple[str, ...]:
        """The next planned shards that are not known to be there, few so that steps need not wait long behind them;
        none when the cache was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited or self._closed)
            if self._closed:
                return ()
            few = min(COPIES_AT_ONCE, len(self._awaited))
            self._arriving = tuple(self._awaited.popleft() for _ in range(few))
            return self._arriving


def _claim(run: Path, folder: Path | None) -> tuple[Path, TextIO]:
    """A folder that this process alone uses, and the lock on it that is held as long as it lives.

    A folder that is named is waited for (its owner is dying); else the first one that is free is taken.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    number = 0
    while True:
        root = folder or run / f"{FOLDER}{number}"
        root.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(root.with_suffix(LOCK))
        if lock is not None:
            return root, lock
        if folder is None:
            number += 1
        elif time.monotonic() < deadline:
            time.sleep(0.1)
        else:
            raise UserError(
                "another process uses this shard cache", where=str(folder), mend="end it and resume the run"
            )


def _try_lock(path: Path) -> TextIO | None:
    """The locked file, made if need be; None where another process has it or it vanished meanwhile."""
    try:
        lock = path.open("a")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None


def _remove(root: Path, lock: TextIO) -> None:
    """Remove a folder of copies and give up its lock."""
    if root.exists():
        shutil.rmtree(root)
    root.with_suffix(LOCK).unlink()
    lock.close()
