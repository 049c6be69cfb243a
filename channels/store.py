"""Reading channels from a store: by set, split and index, memory-mapped, only what is touched."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.files import is_file
from channels.manifest import Shard, StoredSet, StoredSplit, fingerprint, read_manifest
from channels.shards import CHANNEL, LABEL, map_shard

__all__ = ["ChannelStore", "Shard", "StoredSet", "StoredSplit"]

_OPEN_SHARDS = 256
"""Shards kept mapped; each costs one file descriptor of the usual 1,024."""


class ChannelStore:
    """An opened store. Threads may share it; it is picklable: a copy in another process maps the shards itself.

    path: the folder. fingerprint: hex SHA-256 of its content. sets: in the order they were added.
    """

    def __init__(self, path: Path, sets: Mapping[str, StoredSet]) -> None:
        self.path = path
        self.fingerprint = fingerprint(sets)
        self.sets: Mapping[str, StoredSet] = dict(sets)
        self._mapped: OrderedDict[str, dict[str, NDArray[Any]]] = OrderedDict()
        self._mapping = threading.Lock()

    @classmethod
    def open(cls, path: Path | str) -> "ChannelStore":
        """Raises UserError where the folder is no store, is of another schema, or lacks a shard."""
        store = cls(Path(path).absolute(), read_manifest(Path(path)))
        store._check_shards_exist()
        return store

    def read(
        self,
        set_name: str,
        split: str,
        indices: NDArray[np.int64],
        *,
        slots: NDArray[np.int64] | None = None,
        out: NDArray[np.complex64] | None = None,
    ) -> NDArray[np.complex64]:
        """Samples in the order of ``indices``: complex64 [n, T, K, A] at physical scale, without noise.

        slots: int64 [n], of each sample this slot alone is read (T is 1 then). out: memory to be filled and returned.
        Raises UserError for a set, split or index that the store does not hold and for a missing or corrupt shard.
        """
        stored = self._split(set_name, split)
        shape = self.sets[set_name].spec.shape
        touched = self._touched(stored, set_name, split, indices)
        # Compared before anything is allocated: a manifest may claim any shape.
        found = [(self._channel(shard, shape), positions, rows) for shard, positions, rows in touched]
        if slots is not None:
            shape = (1, *shape[1:])
        channel = np.empty((len(indices), *shape), np.complex64) if out is None else out
        for parts, positions, rows in found:
            samples = parts.view(np.complex64)[..., 0]
            # One by one: gathered at once they would be copied twice.
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                channel[position] = samples[row] if slots is None else samples[row, slots[position]]
        return channel

    def labels(self, set_name: str, split: str, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Labels of these samples by name, each with first axis n; empty where the set has none."""
        stored = self._split(set_name, split)
        found: dict[str, NDArray[Any]] = {}
        for shard, positions, rows in self._touched(stored, set_name, split, indices):
            for name, tensor in self._tensors(shard).items():
                if name.startswith(LABEL):
                    empty = np.empty((len(indices), *tensor.shape[1:]), tensor.dtype)
                    found.setdefault(name.removeprefix(LABEL), empty)[positions] = tensor[rows]
        return found

    def forget(self, files: Iterable[str]) -> None:
        """Unmap shards, e.g. removed copies; a read under way ends undisturbed, a later one maps them again."""
        with self._mapping:
            for file in files:
                self._mapped.pop(file, None)

    def __getstate__(self) -> dict[str, Any]:
        """Path and manifest; maps stay behind."""
        return {"path": self.path, "sets": dict(self.sets)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The same store, with no shard mapped yet."""
        self.__init__(state["path"], state["sets"])  # type: ignore[misc]

    def _split(self, set_name: str, split: str) -> StoredSplit:
        if set_name not in self.sets:
            raise UserError(f"no set {set_name!r}", where=str(self.path), mend=f"it has {', '.join(self.sets)}")
        splits = self.sets[set_name].splits
        if split not in splits:
            where = f"{self.path}, set {set_name}"
            raise UserError(f"no split {split!r}", where=where, mend=f"it has {', '.join(splits)}")
        return splits[split]

    def _touched(
        self, stored: StoredSplit, set_name: str, split: str, indices: NDArray[np.int64]
    ) -> list[tuple[Shard, NDArray[np.int64], NDArray[np.int64]]]:
        """For every shard touched: the positions of its samples in the answer and their rows in the shard."""
        indices = np.asarray(indices, np.int64)
        outside = indices[(indices < 0) | (indices >= stored.count)]
        if len(outside):
            what = f"no sample {outside[0]}: {set_name}/{split} has {stored.count}"
            raise UserError(what, where=str(self.path))
        which, rows = np.divmod(indices, stored.shard_samples)
        positions = [(number, np.flatnonzero(which == number)) for number in np.unique(which)]
        return [(stored.shards[number], position, rows[position]) for number, position in positions]

    def _tensors(self, shard: Shard) -> dict[str, NDArray[Any]]:
        with self._mapping:
            if shard.file in self._mapped:
                self._mapped.move_to_end(shard.file)
            else:
                self._mapped[shard.file] = map_shard(self.path / shard.file, shard)
                if len(self._mapped) > _OPEN_SHARDS:
                    self._mapped.popitem(last=False)
            return self._mapped[shard.file]

    def _channel(self, shard: Shard, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Float32 [n, T, K, A, 2] of a shard."""
        parts = self._tensors(shard)[CHANNEL]
        if parts.shape[1:] != (*shape, 2) or parts.dtype != np.float32:
            what = f"samples of shape {parts.shape[1:]} and type {parts.dtype}"
            raise UserError(what, where=str(self.path / shard.file), mend="make or import its set again")
        return parts

    def _check_shards_exist(self) -> None:
        for stored in self.sets.values():
            for shard in (shard for split in stored.splits.values() for shard in split.shards):
                if not is_file(self.path / shard.file):
                    mend = "run 'wavetrain channels verify' on the store, then make or import the set again"
                    raise UserError("the shard is missing", where=str(self.path / shard.file), mend=mend)
