"""An array in a file: its name, shape and type are known, its values are read a slice at a time."""

import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError

NUMBER_KINDS = "biufc"
"""Kinds of types that are numbers, truth values among them: no text, no dates, no records."""

_PART_NAMES = {("real", "imag"), ("re", "im"), ("r", "i"), ("real", "imaginary")}

Slices = Callable[[int, int, int], NDArray[Any]]
"""(axis, start, end) -> the array cut along one axis."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of a file. shape: in the order in which its author indexes it. dtype: complex, real or boolean.

    opened: its slices, for as long as the context lasts; raises UserError where the file cannot be read. blocks: shape
    of the pieces in which the file keeps it, None where any slice costs what it holds.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    opened: Callable[[], AbstractContextManager[Slices]]
    blocks: tuple[int, ...] | None = None

    @property
    def is_complex(self) -> bool:
        """Whether one value is a complex number."""
        return self.dtype.kind == "c"

    @property
    def text(self) -> str:
        """Name, type and shape in words: ``H complex64 (6, 24, 32, 8)``."""
        return f"{self.key} {self.dtype} {self.shape}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds. kind: its format in words. passed: names that cannot be read as numbers, with the reason."""

    path: Path
    kind: str
    arrays: tuple[StoredArray, ...]
    passed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """Where the values of an array lie uncompressed. offset: bytes. fortran: the first axis runs fastest."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


def region_slices(descriptor: int, region: Region, path: Path) -> Slices:
    """Slices of a region, read with no more memory than they need."""

    def read(axis: int, start: int, end: int) -> NDArray[Any]:
        if not region.fortran:
            return _read_c(descriptor, region.offset, region.shape, region.dtype, (axis, start, end), path)
        last = max(len(region.shape) - 1 - axis, 0)
        return _read_c(descriptor, region.offset, region.shape[::-1], region.dtype, (last, start, end), path).T

    return read


def _read_c(
    descriptor: int,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    cut: tuple[int, int, int],
    path: Path,
) -> NDArray[Any]:
    if not shape:
        shape, cut = (1,), (0, 0, 1)
    axis, start, end = cut
    inner = math.prod(shape[axis + 1 :]) * dtype.itemsize
    blocks, run = math.prod(shape[:axis]), (end - start) * inner
    values = np.empty((*shape[:axis], end - start, *shape[axis + 1 :]), dtype)
    if not values.size:
        return values
    target = memoryview(values.reshape(-1).view(np.uint8).data)
    for block in range(blocks):
        at = offset + block * shape[axis] * inner + start * inner
        _read_into(descriptor, target[block * run : (block + 1) * run], at, path)
    return values


def _read_into(descriptor: int, target: memoryview, offset: int, path: Path) -> None:
    while target:
        count = os.preadv(descriptor, [target], offset)
        if count == 0:
            raise UserError("it ends before its last value", where=str(path), mend="it is cut off: fetch it again")
        target, offset = target[count:], offset + count


@contextmanager
def open_region(path: Path, region: Region) -> Iterator[Slices]:
    """Slices of a region of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield region_slices(descriptor, region, path)
    finally:
        os.close(descriptor)


@contextmanager
def spooled(pieces: Iterable[bytes]) -> Iterator[IO[bytes]]:
    """A temporary file of these pieces, which vanishes with the context. Raises UserError where its disk is full."""
    with tempfile.TemporaryFile() as file:
        try:
            file.writelines(pieces)
            file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            what, mend = "no space left to unpack a compressed array", "set TMPDIR to a folder on a larger disk"
            raise UserError(what, where=tempfile.gettempdir(), mend=mend) from error
        yield file


def join_parts(key: str, real: StoredArray, imaginary: StoredArray) -> StoredArray:
    """One complex array of two real ones of the same shape."""

    @contextmanager
    def opened() -> Iterator[Slices]:
        with real.opened() as first, imaginary.opened() as second:
            yield lambda axis, start, end: as_complex(first(axis, start, end), second(axis, start, end))

    return StoredArray(real.path, key, real.shape, complex_type(real.dtype), opened, real.blocks)


def merge_compound(array: StoredArray) -> StoredArray | None:
    """An array of (real, imaginary) records as complex numbers; None where its records are anything else."""
    fields = array.dtype.names or ()
    if tuple(name.lower() for name in fields) not in _PART_NAMES:
        return None
    first, second = (array.dtype[name] for name in fields)
    if first != second or first.kind not in "fiu":
        return None

    @contextmanager
    def opened() -> Iterator[Slices]:
        with array.opened() as slices:

            def read(axis: int, start: int, end: int) -> NDArray[Any]:
                records = slices(axis, start, end)
                return as_complex(records[fields[0]], records[fields[1]])

            yield read

    return StoredArray(array.path, array.key, array.shape, complex_type(first), opened, array.blocks)


def as_numbers(array: StoredArray) -> StoredArray | None:
    """An array of numbers, records of two parts made complex; None where its values are anything else."""
    return array if array.dtype.kind in NUMBER_KINDS else merge_compound(array)


def as_complex(real: NDArray[Any], imaginary: NDArray[Any]) -> NDArray[Any]:
    """Complex values of their parts, in the precision of the real one."""
    values = np.empty(real.shape, complex_type(real.dtype))
    values.real, values.imag = real, imaginary
    return values


def complex_type(part: np.dtype[Any]) -> np.dtype[Any]:
    """The complex type whose parts hold numbers of this type."""
    return np.dtype(np.complex128 if part.itemsize > 4 else np.complex64)
