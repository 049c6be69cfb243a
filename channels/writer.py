"""Writing a store set by set; a set counts only once the manifest names it."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from channels.errors import UserError
from channels.files import (
    has_no_locks,
    is_disk_full,
    is_folder,
    is_there,
    no_locks,
    sync_folder,
    unfinished_writes,
    write_atomically,
)
from channels.manifest import (
    MANIFEST_FILE,
    ROLES,
    SHARD_FOLDER,
    SPLITS,
    Shard,
    StoredSet,
    StoredSplit,
    read_manifest,
    shard_file,
    write_manifest,
)
from channels.shards import Samples, is_storable, write_shard
from channels.signal import UNUSABLE, is_usable, sample_power
from channels.spec import ChannelSpec

SHARD_SAMPLES = 128
"""Samples of a shard, where nobody chooses."""
_LOCK_FILE = ".lock"
_INCOMING = f"{SHARD_FOLDER}/.incoming"


class StoreWriter:
    """The one writer of a store; made by ``open_writer``, which holds the lock."""

    def __init__(self, path: Path, shard_samples: int) -> None:
        self.path = path
        self.shard_samples = shard_samples
        self.sets: dict[str, StoredSet] = read_manifest(path) if is_there(path / MANIFEST_FILE) else {}
        shutil.rmtree(path / _INCOMING, ignore_errors=True)
        for left in unfinished_writes(path / MANIFEST_FILE):
            left.unlink(missing_ok=True)

    def holds(self, spec: ChannelSpec, role: str, counts: Mapping[str, int], origin: Mapping[str, Any]) -> bool:
        """Whether this very set is in the store already. Raises UserError if another one of its name is."""
        stored = self.sets.get(spec.name)
        if stored is None:
            return False
        held = {"role": stored.role, "origin": dict(stored.origin), **stored.spec.to_mapping()}
        held |= {f"{split} samples": part.count for split, part in stored.splits.items()}
        asked = {"role": role, "origin": dict(origin), **spec.to_mapping()}
        asked |= {f"{split} samples": count for split, count in counts.items() if count}
        for key in sorted(held.keys() | asked.keys()):
            if held.get(key) != asked.get(key):
                what = f"the store holds another set of this name: its {key} is {held.get(key)}, not {asked.get(key)}"
                raise UserError(what, where=f"{self.path}, set {spec.name}", mend="choose another folder or name")
        return True

    def add_set(
        self,
        spec: ChannelSpec,
        role: str,
        counts: Mapping[str, int],
        splits: Mapping[str, Iterable[Samples]],
        origin: Mapping[str, Any],
    ) -> bool:
        """Write one set completely, then name it in the manifest; False if the store holds it already.

        counts: samples a split; splits: their chunks of any size, drawn only as far as needed. origin: JSON values that
        say where the set is from (generator and seed, or format). Raises UserError for unusable samples.
        """
        assert role in ROLES and set(counts) <= set(SPLITS) and any(counts.values()), (role, counts)
        if self.holds(spec, role, counts, origin):
            return False
        incoming = self.path / _INCOMING / spec.name
        try:
            incoming.mkdir(parents=True)
            written = {
                split: self._write_split(spec, split, counts[split], splits[split]) for split in counts if counts[split]
            }
            self._publish(incoming, spec, role, written, origin)
        except OSError as error:
            if isinstance(error, PermissionError) and Path(error.filename or "").is_relative_to(self.path):
                raise _unwritable(self.path, error) from error
            if not is_disk_full(error):
                raise
            mend = "free some space and run it again"
            raise UserError("the disk is full", where=str(self.path), mend=mend) from error
        finally:
            shutil.rmtree(self.path / _INCOMING, ignore_errors=True)
        return True

    def _write_split(
        self, spec: ChannelSpec, split: str, count: int, chunks: Iterable[Samples]
    ) -> tuple[StoredSplit, float]:
        """Shards of a split in the incoming folder, and the sum of the powers of its samples."""
        shards: list[Shard] = []
        power = 0.0
        for samples in _cut(chunks, self.shard_samples):
            _check_samples(spec, split, samples)
            power += _checked_power(spec, split, len(shards) * self.shard_samples, samples)
            file = shard_file(spec.name, split, len(shards))
            incoming = self.path / _INCOMING / spec.name / Path(file).name
            shards.append(write_shard(incoming, samples, file))
        total = sum(shard.count for shard in shards)
        if total != count:
            mend = "check that the source is whole, and import or make the set again"
            raise UserError(f"{count} samples were announced, {total} came", where=f"{spec.name}/{split}", mend=mend)
        return StoredSplit(count, tuple(shards), self.shard_samples), power

    def _publish(
        self,
        incoming: Path,
        spec: ChannelSpec,
        role: str,
        written: Mapping[str, tuple[StoredSplit, float]],
        origin: Mapping[str, Any],
    ) -> None:
        splits = {name: split for name, (split, _) in written.items()}
        samples = sum(split.count for split in splits.values())
        mean_power = sum(power for _, power in written.values()) / samples
        target = self.path / SHARD_FOLDER / spec.name
        manifest = self.path / MANIFEST_FILE
        sets = self.sets | {spec.name: StoredSet(spec, role, splits, mean_power, dict(origin))}
        content = write_manifest(sets)
        # A writer killed between the two renames below left a folder that no manifest names.
        shutil.rmtree(target, ignore_errors=True)
        sync_folder(incoming)
        incoming.rename(target)
        try:
            sync_folder(target.parent)
            write_atomically(manifest, content)
        except BaseException:
            if not manifest.exists() or manifest.read_bytes() != content:
                shutil.rmtree(target, ignore_errors=True)
            raise
        self.sets = sets


@contextmanager
def open_writer(path: Path | str, shard_samples: int = SHARD_SAMPLES) -> Iterator[StoreWriter]:
    """The writer of a new or existing store.

    Raises UserError where another process writes to it, where it cannot be written, or where the folder holds something
    that is no store. A folder that got no set is taken away again.
    """
    store = Path(path).absolute()
    _refuse_foreign_folder(store)
    existed = store.exists()
    with _locked(store):
        try:
            yield StoreWriter(store, shard_samples)
        finally:
            if not (store / MANIFEST_FILE).exists():
                _remove_empty(store, existed)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    lock = store / _LOCK_FILE
    try:
        store.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a")
    except OSError as error:
        raise _unwritable(store, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same_file = os.fstat(stream.fileno()).st_ino == lock.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            same_file = False
        except OSError as error:
            if has_no_locks(error):
                raise no_locks(store) from None
            raise
        if not same_file:
            mend = "wait until it is done, or choose another folder"
            raise UserError("another process is writing to this store", where=str(store), mend=mend)
        yield


def _unwritable(store: Path, error: OSError) -> UserError:
    return UserError(f"the store cannot be written ({error.strerror})", where=str(store), mend="choose another folder")


def _refuse_foreign_folder(store: Path) -> None:
    if is_there(store) and not is_folder(store):
        raise UserError("the store would be a folder, but this is a file", where=str(store), mend="choose another one")
    if not is_there(store) or is_there(store / MANIFEST_FILE):
        return
    own = {_LOCK_FILE, SHARD_FOLDER, *(left.name for left in unfinished_writes(store / MANIFEST_FILE))}
    try:
        foreign = sorted({entry.name for entry in store.iterdir()} - own)
    except OSError as error:
        raise _unwritable(store, error) from error
    if foreign:
        what = f"the folder is no store and holds other files ({foreign[0]})"
        raise UserError(what, where=str(store), mend="choose an empty or new folder")


def _remove_empty(store: Path, existed: bool) -> None:
    shutil.rmtree(store / _INCOMING, ignore_errors=True)
    shards = store / SHARD_FOLDER
    if shards.is_dir() and not any(shards.iterdir()):
        shards.rmdir()
    (store / _LOCK_FILE).unlink(missing_ok=True)
    if not existed and not any(store.iterdir()):
        store.rmdir()


def _cut(chunks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in chunks of ``size``; only the last may be smaller."""
    held: list[Samples] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk.channel)
        if count >= size:
            joined = _join(held)
            full = count - count % size
            for start in range(0, full, size):
                yield _rows(joined, start, start + size)
            held, count = ([_rows(joined, full, count)], count - full) if count > full else ([], 0)
    if count:
        yield _join(held)


def _join(parts: list[Samples]) -> Samples:
    if len(parts) == 1:
        return parts[0]
    names = {name for part in parts for name in part.labels}
    for part in parts:
        if missing := names - part.labels.keys():
            raise UserError(f"label {min(missing)!r} is missing for some samples", mend="label all samples of a set")
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels}
    return Samples(np.concatenate([part.channel for part in parts]), labels)


def _rows(samples: Samples, start: int, end: int) -> Samples:
    return Samples(samples.channel[start:end], {name: label[start:end] for name, label in samples.labels.items()})


def _check_samples(spec: ChannelSpec, split: str, samples: Samples) -> None:
    """Raises UserError for what would be stored and could not be read again."""
    where = f"{spec.name}/{split}"
    channel = samples.channel
    if channel.shape[1:] != spec.shape or channel.dtype != np.complex64:
        what = f"samples of shape {channel.shape[1:]} ({channel.dtype}), but the set is of {spec.shape} (complex64)"
        raise UserError(what, where=where)
    for name, label in samples.labels.items():
        if len(label) != len(channel):
            raise UserError(f"{len(label)} values of label {name!r} for {len(channel)} samples", where=where)
        if not is_storable(label.dtype):
            mend = "use numbers or truth values"
            raise UserError(f"label {name!r} is of type {label.dtype}", where=where, mend=mend)


def _checked_power(spec: ChannelSpec, split: str, first: int, samples: Samples) -> float:
    """Sum of the powers of samples, the first of which has number ``first``; raises UserError for unusable ones."""
    power = sample_power(samples.channel)
    bad = np.flatnonzero(~is_usable(power))
    if len(bad):
        what = f"sample {first + int(bad[0])} has mean power {power[bad[0]]}: {UNUSABLE}"
        raise UserError(what, where=f"{spec.name}/{split}", mend="mend or remove it in the source")
    return float(power.sum())
