"""Samples out of an array of a file: in chunks, with their labels, never the whole array."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.files.arrays import NUMBER_KINDS, Slices, StoredArray, complex_type
from channels.importers.found import SourceSplit
from channels.importers.pairs import means_label
from channels.shards import Samples

CHUNK_BYTES = 2**23
"""Most of a file that is read at once, unless a single sample is larger."""

BLOCK_BYTES = 2**27
"""Most that is read at once so that no compressed block of a file is unpacked twice."""

SAMPLE_BYTES = 2**28
"""Most of one sample: a file of a few bytes can claim any shape. The largest published one has 0.4 MB."""

CONSTANT_VALUES = 16
"""Most values of an array that is the same for all samples, to be kept as a label of each."""

Rows = range | NDArray[np.int64]
"""Indices along the axis of samples, ascending."""

Convert = Callable[[NDArray[Any]], NDArray[np.complex64]]


@dataclass(frozen=True, slots=True)
class Label:
    """An array with one entry a sample along ``axis``, or one entry for all samples where that is None."""

    array: StoredArray
    axis: int | None


@dataclass(frozen=True, slots=True)
class ChannelArray:
    """The channels of one file.

    convert: a piece, in the order of ``axes``, to samples; None for ``axes.samples``. made_bytes: of a sample that it
    makes.
    """

    array: StoredArray
    axes: Axes
    labels: Mapping[str, Label]
    convert: Convert | None = None
    made_bytes: int = 0

    @property
    def count(self) -> int:
        """Samples in the file."""
        return self.axes.count(self.array.shape)

    def split(self, rows: Rows | None = None) -> SourceSplit:
        """These samples, or all of them. Raises UserError for truth values and samples over SAMPLE_BYTES."""
        if self.array.dtype.kind == "b":
            mend = "name the array of the channels with --key"
            raise UserError(f"{self.array.text}: truth values, not channels", where=str(self.array.path), mend=mend)
        chosen = range(self.count) if rows is None else rows
        values = math.prod(self.array.shape) // max(self.count, 1)
        size = max(values * max(8, self.array.dtype.itemsize), self.made_bytes)
        if size > SAMPLE_BYTES:
            what = f"{self.array.text}: a sample is larger than {SAMPLE_BYTES} bytes"
            mend = "name the axis of its samples with --axes, or cut them into smaller ones"
            raise UserError(what, where=str(self.array.path), mend=mend)
        step = self._step(size)
        return SourceSplit(len(chosen), lambda: self._chunks(chosen, step))

    def _step(self, size: int) -> int:
        """Samples of this many bytes to read at once: whole blocks of the file, where it has blocks of a fair size."""
        step = max(1, CHUNK_BYTES // max(size, 1))
        axis = self.axes.sample_axis
        block = 1 if axis is None or self.array.blocks is None else self.array.blocks[axis]
        if block <= step:
            return step - step % block
        return block if block * size <= BLOCK_BYTES else step

    def _chunks(self, rows: Rows, step: int) -> Iterator[Samples]:
        convert = self.convert or self.axes.samples
        with ExitStack() as stack:
            channel = stack.enter_context(self.array.opened())
            labels = {name: (stack.enter_context(label.array.opened()), label) for name, label in self.labels.items()}
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                piece = _cut(channel, self.axes.sample_axis, chosen, self.array.shape)
                values = {name: _label(slices, label, chosen) for name, (slices, label) in labels.items()}
                # What does not fit into single precision becomes infinite, and the sample is named for it.
                with np.errstate(over="ignore", invalid="ignore"):
                    samples = Samples(convert(piece), values)
                yield samples


def find_labels(
    channel: StoredArray, count: int, others: Sequence[StoredArray], *, matlab: bool
) -> tuple[dict[str, Label], list[tuple[StoredArray, str]]]:
    """Which arrays beside a channel have an entry a sample, and which do not, with the reason.

    A few values are one entry for all samples, unless they are called labels: too few of those are cut off.
    matlab: vectors may lie along the second axis there.
    """
    labels: dict[str, Label] = {}
    rest: list[tuple[StoredArray, str]] = []
    for array in others:
        if array.dtype.kind not in NUMBER_KINDS or array.dtype.itemsize > (16 if array.is_complex else 8):
            rest.append((array, f"of type {array.dtype}"))
        elif array.shape and array.shape[0] == count:
            labels[array.key] = Label(array, 0)
        elif matlab and len(array.shape) == 2 and array.shape == (1, count):
            labels[array.key] = Label(array, 1)
        elif array.shape and math.prod(array.shape) <= CONSTANT_VALUES and not means_label(array.key):
            labels[array.key] = Label(array, None)
        else:
            rest.append((array, f"{array.shape} is no entry for each of the {count} samples of {channel.key}"))
    return labels, rest


def agree_on_constants(arrays: Mapping[str, ChannelArray]) -> dict[str, ChannelArray]:
    """The arrays of a set's splits, with the same labels constant in all of them.

    Three coordinates of a sender look like an entry a sample in the split that happens to have three samples.
    """
    labels = [(name, label) for array in arrays.values() for name, label in array.labels.items()]
    constant = {(name, label.array.shape) for name, label in labels if label.axis is None}
    return {
        split: replace(
            array,
            labels={
                name: replace(label, axis=None) if (name, label.array.shape) in constant else label
                for name, label in array.labels.items()
            },
        )
        for split, array in arrays.items()
    }


def _cut(slices: Slices, axis: int | None, rows: Rows, shape: tuple[int, ...]) -> NDArray[Any]:
    if axis is None:
        return slices(0, 0, shape[0])
    parts = [slices(axis, start, end) for start, end in _runs(rows)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _runs(rows: Rows) -> list[tuple[int, int]]:
    """(start, end) of rows that follow each other."""
    if isinstance(rows, range):
        return [(rows.start, rows.stop)]
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, breaks)]


def _label(slices: Slices, label: Label, rows: Rows) -> NDArray[Any]:
    """The entries of some samples; complex ones as a last axis of real and imaginary part."""
    if label.axis is None:
        one = slices(0, 0, label.array.shape[0])
        values = np.broadcast_to(one, (len(rows), *one.shape))
    else:
        values = _cut(slices, label.axis, rows, label.array.shape)
        if label.axis == 1:
            values = values.T
    if len(label.array.shape) == 2 and values.shape[1:] == (1,):
        values = values[:, 0]
    if values.dtype.kind == "c":
        parts = np.ascontiguousarray(values, complex_type(values.real.dtype))
        return parts[..., None].view(parts.real.dtype)
    dtype = np.dtype(bool) if label.array.dtype.kind == "b" else values.dtype.newbyteorder("=")
    return np.ascontiguousarray(values, dtype)
