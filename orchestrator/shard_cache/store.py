"""Copies of a store's shards in node-local storage: bounded, checksummed on arrival, least recently used go first."""

import hashlib
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from channels.errors import UserError
from channels.files import is_disk_full
from channels.manifest import SHARD_FOLDER, Shard

PIECE_BYTES = 4 * 2**20
COPIES_AT_ONCE = 4
ARRIVALS = 2
"""Times a shard is copied before its corruption is taken to be the store's."""
INCOMING = ".incoming"


@dataclass(slots=True)
class CacheCounts:
    """bytes_moved: copied from the store. hits, misses: shards asked for that were there, or had to be copied.
    evictions: shards removed for others."""

    bytes_moved: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class ShardCache:
    """Shards of one store under ``root``, laid out as in the store, so that a ``ChannelStore`` reads them there.

    Shards are held by name: what any holder holds is there and stays. Everything else goes, least recently used first,
    when there is no room. Removing only unlinks, so whoever has such a shard mapped goes on reading it. Thread safe.

    A folder with complete copies is used again; each is verified when it is first asked for, and what else lies there
    is removed. While ``evicting`` is False nothing is evicted and whoever needs room waits for :meth:`start_evicting`.
    """

    def __init__(
        self, root: Path, capacity: int, source: Path, shards: Iterable[Shard], *, evicting: bool = True
    ) -> None:
        self.root = root
        self.capacity = capacity
        self._source = source
        self._shards = {shard.file: shard for shard in shards}
        self._evicting = evicting
        self._changed = threading.Condition()
        self._stored: OrderedDict[str, bool] = OrderedDict()
        """Whole copies, least recently used first; True once verified in this life."""
        self._busy: set[str] = set()
        self._held: dict[Hashable, set[str]] = {}
        self._holders: Counter[str] = Counter()
        self._held_bytes = 0
        self._used_bytes = 0
        """Of all shards stored or held (what is held and not stored is about to arrive)."""
        self._counts = CacheCounts()
        self._pool = ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="shard-copy")
        self._adopt()

    def acquire(self, holder: Hashable, files: Sequence[str]) -> None:
        """Hold these shards as well; returns when all are there.

        Waits while others hold the room, and meanwhile holds none of them. Raises UserError where the shards are more
        than the capacity, one is missing or twice corrupt, or the disk is full; they are not held then.
        """
        wanted = tuple(dict.fromkeys(files))
        self._check_capacity(wanted)
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(wanted))
            added = self._hold(holder, wanted)
            self._evict()
        try:
            copied = self._bring(wanted)
        except BaseException:
            self.release(holder, added)
            raise
        with self._changed:
            self._counts.misses += copied
            self._counts.hits += len(wanted) - copied

    def hold_stored(self, holder: Hashable, files: Iterable[str]) -> None:
        """Hold those of the shards that are there, verified or not; never waits."""
        with self._changed:
            self._hold(holder, [file for file in files if file in self._stored])

    def release(self, holder: Hashable, files: Iterable[str] | None = None) -> None:
        """Let go of some shards or all; what the holder does not hold is passed over.

        A shard that the holder is still acquiring must not be released.
        """
        with self._changed:
            held = self._held.get(holder, set())
            for file in set(held) if files is None else held.intersection(files):
                held.remove(file)
                self._drop_holder(file)
            if not held:
                self._held.pop(holder, None)
            self._changed.notify_all()

    def held(self, holder: Hashable) -> set[str]:
        """What the holder holds, shards on their way included."""
        with self._changed:
            return set(self._held.get(holder, ()))

    def start_evicting(self) -> None:
        """From now on the room of shards that nobody holds is given to others."""
        with self._changed:
            self._evicting = True
            self._evict()
            self._changed.notify_all()

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
                continue
            self._stored[file] = False
            self._used_bytes += shard.bytes
        self._evict()

    def _bytes(self, files: Iterable[str]) -> int:
        return sum(self._shards[file].bytes for file in files)

    def _check_capacity(self, wanted: Sequence[str]) -> None:
        needed = self._bytes(wanted)
        if needed > self.capacity:
            what = f"{len(wanted)} shards are needed at once, {size_text(needed)}; it holds {size_text(self.capacity)}"
            mend = "raise data.cache_gb, or use data.placement shared"
            raise UserError(what, where=f"shard cache {self.root}", mend=mend)

    def _has_room(self, wanted: Sequence[str]) -> bool:
        unheld = [file for file in wanted if file not in self._holders]
        if self._evicting:
            return self._held_bytes + self._bytes(unheld) <= self.capacity
        return self._used_bytes + self._bytes(file for file in unheld if file not in self._stored) <= self.capacity

    def _hold(self, holder: Hashable, files: Iterable[str]) -> list[str]:
        """Shards that the holder did not hold before."""
        held = self._held.setdefault(holder, set())
        added = [file for file in files if file not in held]
        for file in added:
            held.add(file)
            if file not in self._holders:
                self._held_bytes += self._shards[file].bytes
                self._used_bytes += 0 if file in self._stored else self._shards[file].bytes
            self._holders[file] += 1
        for file in files:
            if file in self._stored:
                self._stored.move_to_end(file)
        return added

    def _drop_holder(self, file: str) -> None:
        self._holders[file] -= 1
        if self._holders[file]:
            return
        assert file not in self._busy, f"{file} is released while it arrives"
        del self._holders[file]
        self._held_bytes -= self._shards[file].bytes
        self._used_bytes -= 0 if file in self._stored else self._shards[file].bytes

    def _evict(self) -> None:
        if not self._evicting or self._used_bytes <= self.capacity:
            return
        for file in [file for file in self._stored if file not in self._holders]:
            del self._stored[file]
            (self.root / file).unlink()
            self._used_bytes -= self._shards[file].bytes
            self._counts.evictions += 1
            if self._used_bytes <= self.capacity:
                return

    def _bring(self, wanted: Sequence[str]) -> int:
        """Copy or verify held shards until all are there, together with whoever else is at it; the number copied."""
        copied = 0
        while claimed := self._claim(wanted):
            arrivals = [self._pool.submit(self._arrive, file) for file in claimed]
            # All must end before the first error is raised: its handler lets go of the shards.
            wait(arrivals)
            copied += sum(arrival.result() for arrival in arrivals)
        return copied

    def _claim(self, wanted: Sequence[str]) -> list[str]:
        """Shards that this thread shall see to, none when all are there; waits while others see to the rest."""
        with self._changed:
            while True:
                absent = [file for file in wanted if not self._stored.get(file, False)]
                claimed = [file for file in absent if file not in self._busy]
                if claimed or not absent:
                    self._busy.update(claimed)
                    return claimed
                self._changed.wait()

    def _arrive(self, file: str) -> bool:
        """Make a claimed shard whole and verified; whether it had to be copied."""
        arrived = copied = False
        try:
            copied = not (file in self._stored and self._is_intact(file))
            if copied:
                self._copy(self._shards[file])
            arrived = True
        finally:
            with self._changed:
                self._busy.remove(file)
                self._stored.pop(file, None)
                if arrived:
                    self._stored[file] = True
                self._changed.notify_all()
        return copied

    def _is_intact(self, file: str) -> bool:
        with (self.root / file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self._shards[file].sha256

    def _copy(self, shard: Shard) -> None:
        """Raises UserError for a shard that is missing or twice corrupt and for a full disk."""
        source, target = self._source / shard.file, self.root / shard.file
        incoming = target.with_name(f".{target.name}{INCOMING}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            for _ in range(ARRIVALS):
                digest = copy_hashed(source, incoming)
                with self._changed:
                    self._counts.bytes_moved += incoming.stat().st_size
                if digest == shard.sha256:
                    incoming.replace(target)
                    return
        except OSError as error:
            raise _explained(error, source, self.root) from error
        finally:
            incoming.unlink(missing_ok=True)
        raise UserError(
            f"the shard is corrupt: {ARRIVALS} copies had the SHA-256 {digest}, the manifest says {shard.sha256}",
            where=str(source),
            mend="run 'wavetrain channels verify' on the store, then make or import its set again",
        )


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file in pieces and fsync it; hex SHA-256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(PIECE_BYTES):
            digest.update(piece)
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def size_text(size: int) -> str:
    """Bytes in a decimal unit, e.g. ``1.50 GB``."""
    if size < 1000:
        return f"{size} B"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.2f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _explained(error: OSError, source: Path, root: Path) -> OSError | UserError:
    """What a user can mend of an error while copying; anything else as it is."""
    if isinstance(error, FileNotFoundError) and not source.exists():
        return UserError("the shard is missing in the store", where=str(source), mend="make or import its set again")
    if is_disk_full(error):
        mend = "lower data.cache_gb to what the disk holds, or give storage.cache another folder"
        return UserError("the disk of the shard cache is full", where=str(root), mend=mend)
    return error
