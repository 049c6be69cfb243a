"""All samples of the chosen sets in one order, and what is known of them beside the channel: labels and gain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.manifest import SPLITS
from channels.signal import is_usable, sample_power
from channels.spec import ChannelSpec
from channels.store import ChannelStore

READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PooledSet:
    """Samples of one set, its splits one after the other.

    splits: (split, indices of its samples there). first: row of its first sample in the pool. gain_db: mean power of a
    sample, float64 [n].
    """

    spec: ChannelSpec
    splits: tuple[tuple[str, NDArray[np.int64]], ...]
    first: int
    labels: Mapping[str, NDArray[Any]]
    gain_db: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Of the set."""
        return self.spec.name

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.gain_db)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Of its samples in the pool."""
        return np.arange(self.first, self.first + self.count)

    def label(self, names: Sequence[str]) -> tuple[str, NDArray[Any]] | None:
        """The first of some labels that it has, with its name."""
        return next(((name, self.labels[name]) for name in names if name in self.labels), None)


@dataclass(frozen=True, slots=True)
class Pool:
    """The sets, one after the other."""

    store: ChannelStore
    sets: tuple[PooledSet, ...]

    @property
    def count(self) -> int:
        """Samples of all sets."""
        return sum(one.count for one in self.sets)

    @property
    def gain_db(self) -> NDArray[np.float64]:
        """Of every sample."""
        return np.concatenate([one.gain_db for one in self.sets])

    def read(self, one: PooledSet, index: NDArray[np.int64]) -> NDArray[np.complex64]:
        """Channels [n, T, K, A] of some samples of a set, as stored."""
        return _read(self.store, one.name, one.splits, index)


def open_pool(store: ChannelStore, names: Sequence[str] | None, samples: int | None, gain: Sequence[str]) -> Pool:
    """The pool of some sets, or of all.

    samples: at most so many of each, spread evenly over it, since neighbours in a file are often neighbours in the
    scene. gain: names of the label that restores the scale, in dB.

    Raises:
        UserError: no such set, a gain that is not one number a sample, a sample without power.
    """
    sets: list[PooledSet] = []
    first = 0
    for name in tuple(store.sets) if names is None else names:
        if name not in store.sets:
            raise UserError(f"no set {name!r}", where=f"sets, {store.path}", mend=f"it has {', '.join(store.sets)}")
        one = _pooled(store, name, samples, gain, first)
        sets.append(one)
        first += one.count
    if not sets:
        raise UserError("no set is named", where="sets", mend="name some, or leave the field out for all")
    return Pool(store, tuple(sets))


def _pooled(store: ChannelStore, name: str, samples: int | None, gain: Sequence[str], first: int) -> PooledSet:
    stored = store.sets[name]
    splits = _chosen({split: stored.splits[split].count for split in SPLITS if split in stored.splits}, samples)
    parts = [store.labels(name, split, index) for split, index in splits]
    common = set.intersection(*(set(part) for part in parts))
    labels = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key in common}
    power = _powers(store, name, splits)
    if not is_usable(power).all():
        mend = "find it with 'wavetrain channels verify' and make or import its set again"
        what = "a sample has no power, too little, or one that is no number"
        raise UserError(what, where=f"{store.path}, {name}", mend=mend)
    one = PooledSet(stored.spec, splits, first, labels, 10 * np.log10(power))
    found = one.label(gain)
    if found is None:
        return one
    key, values = found
    if values.shape != (one.count,) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        what = f"label {key!r} has shape {values.shape} and type {values.dtype}, not one finite number a sample"
        raise UserError(what, where=f"set {name}", mend="name another label as gain, or none with []")
    return PooledSet(one.spec, one.splits, first, labels, one.gain_db + values.astype(np.float64))


def _chosen(counts: Mapping[str, int], most: int | None) -> tuple[tuple[str, NDArray[np.int64]], ...]:
    """Indices of each split: all, or ``most`` at equal distances over all splits, one after the other."""
    total = sum(counts.values())
    number = total if most is None else min(most, total)
    chosen = np.arange(number) * total // number
    found, start = [], 0
    for split, count in counts.items():
        index = chosen[(chosen >= start) & (chosen < start + count)] - start
        if len(index):
            found.append((split, index))
        start += count
    return tuple(found)


def _powers(store: ChannelStore, name: str, splits: Sequence[tuple[str, NDArray[np.int64]]]) -> NDArray[np.float64]:
    count = sum(len(index) for _, index in splits)
    starts = range(0, count, READ_AT_ONCE)
    pieces = [np.arange(start, min(start + READ_AT_ONCE, count)) for start in starts]
    return np.concatenate([sample_power(_read(store, name, splits, piece)) for piece in pieces])


def _read(
    store: ChannelStore, name: str, splits: Sequence[tuple[str, NDArray[np.int64]]], rows: NDArray[np.int64]
) -> NDArray[np.complex64]:
    channels = np.empty((len(rows), *store.sets[name].spec.shape), np.complex64)
    start = 0
    for split, index in splits:
        chosen = np.flatnonzero((rows >= start) & (rows < start + len(index)))
        if len(chosen):
            channels[chosen] = store.read(name, split, index[rows[chosen] - start])
        start += len(index)
    return channels
