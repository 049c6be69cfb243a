"""NumPy's ``.npy``, and ``.npz`` archives of them; objects, which would have to be unpickled, are passed over."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from channels.errors import UserError
from channels.importers.files.arrays import (
    Contents,
    Region,
    Slices,
    StoredArray,
    as_numbers,
    open_region,
    region_slices,
    spooled,
)

_LOCAL_HEADER_BYTES = 30
_PIECE_BYTES = 2**20
_ENCRYPTED = 0x1
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, NotImplementedError, RuntimeError,
    ValueError, KeyError,
)  # fmt: skip
OBJECTS = "Python objects, which are never unpickled"


def npy_contents(path: Path) -> Contents:
    """The one array of a ``.npy`` file, under the file's name. Raises UserError where its header is broken."""
    with path.open("rb") as stream:
        region = _region(stream, path.stat().st_size, str(path))
    if region is None:
        return Contents(path, "npy", (), ((path.stem, OBJECTS),))
    array = as_numbers(StoredArray(path, path.stem, region.shape, region.dtype, lambda: open_region(path, region)))
    if array is None:
        return Contents(path, "npy", (), ((path.stem, f"of type {region.dtype}"),))
    return Contents(path, "npy", (array,))


def npz_contents(path: Path) -> Contents:
    """The arrays of a ``.npz`` file. Raises UserError where the archive is broken."""
    arrays: list[StoredArray] = []
    passed: list[tuple[str, str]] = []
    with _archive(path) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key == member.filename:
                passed.append((key, "not an array"))
                continue
            if member.flag_bits & _ENCRYPTED:
                raise UserError(f"{key} is encrypted", where=str(path), mend="unpack it first")
            with archive.open(member) as stream:
                region = _region(stream, member.file_size, f"{path} ({key})")
            if region is None:
                passed.append((key, OBJECTS))
            elif (array := _member_array(path, key, member, region)) is None:
                passed.append((key, f"of type {region.dtype}"))
            else:
                arrays.append(array)
    return Contents(path, "npz", tuple(arrays), tuple(passed))


def _region(stream: IO[bytes], size: int, where: str) -> Region | None:
    """What the header says, compared with the size of the file; None for objects."""
    try:
        version = npy_format.read_magic(stream)  # type: ignore[no-untyped-call]
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    # The header is a Python literal, on which its parsers raise whatever they stumble over.
    except Exception as error:
        raise UserError(f"its header is broken ({error})", where=where, mend="fetch it again") from error
    if dtype.hasobject:
        return None
    if any(not 0 <= length < 2**63 for length in shape):
        raise UserError(f"its header claims the shape {shape}", where=where, mend="fetch it again")
    expected = int(np.prod([1, *shape], dtype=object)) * dtype.itemsize
    if size - stream.tell() < expected:
        what = f"it holds {size - stream.tell()} bytes of the {expected} that {shape} {dtype} takes"
        raise UserError(what, where=where, mend="it is cut off: fetch it again")
    return Region(stream.tell(), tuple(map(int, shape)), dtype, fortran)


def _member_array(path: Path, key: str, member: zipfile.ZipInfo, region: Region) -> StoredArray | None:
    def opened() -> Any:
        if member.compress_type == zipfile.ZIP_STORED:
            start = _data_start(path, member)
            return open_region(path, Region(start + region.offset, region.shape, region.dtype, region.fortran))
        return _unpacked(path, member, region)

    return as_numbers(StoredArray(path, key, region.shape, region.dtype, opened))


def _data_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: behind its own header, whose length only itself says."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER_BYTES)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_BYTES + name + extra


@contextmanager
def _unpacked(path: Path, member: zipfile.ZipInfo, region: Region) -> Iterator[Slices]:
    """Slices of a compressed member, which is unpacked to a file that vanishes with the context."""
    with _archive(path) as archive, archive.open(member) as stream:
        pieces = iter(lambda: stream.read(_PIECE_BYTES), b"")
        with spooled(pieces) as file:
            yield region_slices(file.fileno(), region, path)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    # zipfile raises whatever its parser stumbles over on a broken file.
    except _BROKEN as error:
        raise UserError(f"a broken archive ({error})", where=str(path), mend="fetch it again") from error
