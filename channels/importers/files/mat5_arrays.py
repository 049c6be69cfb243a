"""Large arrays out of MATLAB 5 to 7 files, a slice at a time.

MATLAB writes the real parts of all values and then the imaginary ones, each in Fortran order, often in smaller types
than the class of the array. Compressed variables are unpacked to a temporary file. Layout: MAT-File Format (MathWorks),
chapter "MAT-File Level 5".
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from channels.errors import UserError
from channels.importers.files.arrays import Contents, Region, Slices, StoredArray, as_complex, region_slices, spooled
from channels.importers.files.mat5 import COMPLEX, COMPRESSED, HEADER_BYTES, MATRIX, NUMBERS, NUMERIC_CLASSES, TAG_BYTES

_HEAD_BYTES = 2**16
"""Enough of a variable for its flags, shape and name."""
_PIECE_BYTES = 2**20
_LOGICAL = 0x02
_CLASSES = {1: "a cell", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse matrix", 16: "a function", 17: "opaque"}
_DTYPES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a top-level element lies: its data at ``offset``, ``size`` bytes, compressed or plain."""

    offset: int
    size: int
    compressed: bool
    order: str


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before the values. values: offset of the real part's tag in the unpacked element."""

    name: str
    shape: tuple[int, ...]
    array_class: int
    is_complex: bool
    is_logical: bool
    values: int


def mat5_contents(path: Path) -> Contents:
    """The numeric arrays of a file; cells, structures, text and sparse matrices are passed over by name.

    Raises UserError where the file is broken or cut off.
    """
    arrays: list[StoredArray] = []
    passed: list[tuple[str, str]] = []
    with path.open("rb") as stream, _faults_named(path):
        for place in _places(stream, path.stat().st_size):
            head = _head(_first_bytes(stream, place), place.order)
            if head.array_class not in NUMERIC_CLASSES:
                passed.append((head.name, _CLASSES.get(head.array_class, f"of class {head.array_class}")))
            elif min(head.shape, default=0) <= 0:
                passed.append((head.name, "empty"))
            else:
                arrays.append(_array(path, place, head))
    return Contents(path, "MATLAB 5", tuple(arrays), tuple(passed))


def _places(stream: IO[bytes], size: int) -> Iterator[_Place]:
    stream.seek(126)
    order = {b"IM": "<", b"MI": ">"}.get(stream.read(2))
    if order is None:
        raise ValueError("it has no MATLAB 5 header")
    at = HEADER_BYTES
    while at < size:
        stream.seek(at)
        tag = stream.read(TAG_BYTES)
        if len(tag) < TAG_BYTES:
            raise ValueError("it ends inside a variable")
        kind, length = struct.unpack(f"{order}II", tag)
        if kind not in (MATRIX, COMPRESSED):
            raise ValueError(f"an element of type {kind} where a variable should be")
        if at + TAG_BYTES + length > size:
            raise ValueError("it ends inside a variable")
        yield _Place(at + TAG_BYTES, length, kind == COMPRESSED, order)
        at += TAG_BYTES + length + (0 if kind == COMPRESSED else -length % 8)


def _first_bytes(stream: IO[bytes], place: _Place) -> bytes:
    """The beginning of a variable's own elements, unpacked and without the tag of the variable."""
    stream.seek(place.offset)
    if not place.compressed:
        return stream.read(min(place.size, _HEAD_BYTES))
    content = zlib.decompressobj().decompress(stream.read(min(place.size, _HEAD_BYTES)), _HEAD_BYTES)
    if struct.unpack_from(f"{place.order}I", content)[0] != MATRIX:
        raise ValueError("a compressed element that is no variable")
    return content[TAG_BYTES:]


def _head(content: bytes, order: str) -> _Head:
    _, start, size, at = _element(content, 0, order)
    flags = struct.unpack_from(f"{order}I", content, start)[0]
    _, start, size, at = _element(content, at, order)
    shape = tuple(int(length) for length in np.frombuffer(content[start : start + size], f"{order}i4"))
    _, start, size, at = _element(content, at, order)
    name = content[start : start + size].decode("latin-1")
    return _Head(name, shape, flags & 0xFF, bool(flags >> 8 & COMPLEX), bool(flags >> 8 & _LOGICAL), at)


def _element(content: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """(type, start of the data, its bytes, start of the next element) of the element at ``at``."""
    first, size = struct.unpack_from(f"{order}II", content, at)
    if first >> 16:
        return first & 0xFFFF, at + 4, first >> 16, at + TAG_BYTES
    return first, at + TAG_BYTES, size, at + TAG_BYTES + size + -size % 8


def _array(path: Path, place: _Place, head: _Head) -> StoredArray:
    part = np.dtype("bool" if head.is_logical else _DTYPES[head.array_class])
    dtype = np.dtype(np.complex128 if part.itemsize > 4 else np.complex64) if head.is_complex else part

    @contextmanager
    def opened() -> Iterator[Slices]:
        with _unpacked(path, place) as (descriptor, base, length), _faults_named(path):
            at = base + head.values
            regions = []
            for _ in range(2 if head.is_complex else 1):
                region, at = _values(descriptor, at, base + length, head, place.order)
                regions.append(region_slices(descriptor, region, path))
            if head.is_complex:
                real, imaginary = regions
                yield lambda axis, start, end: as_complex(real(axis, start, end), imaginary(axis, start, end))
            else:
                yield regions[0]

    return StoredArray(path, head.name, head.shape, dtype, opened)


def _values(descriptor: int, at: int, end: int, head: _Head, order: str) -> tuple[Region, int]:
    """Where the values of one part lie, and where the next element begins."""
    kind, start, size, following = _element(os.pread(descriptor, TAG_BYTES, at), 0, order)
    dtype = np.dtype(f"{order}{NUMBERS[kind]}") if kind in NUMBERS else None
    if dtype is None or math.prod(head.shape) * dtype.itemsize != size:
        raise ValueError(f"{head.name!r} of shape {head.shape} holds {size} bytes of type {kind}")
    if at + start + size > end:
        raise ValueError(f"{head.name!r} ends before its last value")
    return Region(at + start, head.shape, dtype, fortran=True), at + following


@contextmanager
def _unpacked(path: Path, place: _Place) -> Iterator[tuple[int, int, int]]:
    """(descriptor, offset, bytes) of a variable's elements; a compressed one lies in a file that then vanishes."""
    with path.open("rb") as stream:
        if not place.compressed:
            yield stream.fileno(), place.offset, place.size
            return
        with _faults_named(path), spooled(_inflated(stream, place)) as file:
            yield file.fileno(), TAG_BYTES, file.tell() - TAG_BYTES


def _inflated(stream: IO[bytes], place: _Place) -> Iterator[bytes]:
    stream.seek(place.offset)
    unpacking = zlib.decompressobj()
    left = place.size
    while left and not unpacking.eof:
        piece = stream.read(min(left, _PIECE_BYTES))
        left -= len(piece)
        while piece:
            yield unpacking.decompress(piece, _PIECE_BYTES)
            piece = unpacking.unconsumed_tail
    if not unpacking.eof:
        raise ValueError("a compressed variable is cut off")


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (ValueError, struct.error, zlib.error, IndexError) as error:
        raise UserError(f"a broken MATLAB 5 file ({error})", where=str(path), mend="fetch it again") from error
