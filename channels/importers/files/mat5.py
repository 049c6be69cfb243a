"""Numbers and words out of MATLAB v5 files, for input that nobody vouches for.

scipy's parser can be made to end the process by a few changed bytes (bus error), so the little that is needed is read
here: real numeric arrays and text, plain or compressed; cells, structures, sparse and complex arrays are passed over.
Layout: MAT-File Format (MathWorks), chapter "MAT-File Level 5".
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 128
TAG_BYTES = 8
MATRIX, COMPRESSED = 14, 15
_TEXT_CLASS, NUMERIC_CLASSES = 4, range(6, 16)
COMPLEX = 0x08
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_variables(path: Path, names: Collection[str], most_bytes: int) -> dict[str, NDArray[Any] | str]:
    """The named variables that a file holds: arrays of its shape, text as one string.

    Raises ValueError for a file that is no MATLAB v5 file, is broken, or unpacks to more than ``most_bytes``.
    """
    if path.stat().st_size > most_bytes:
        raise ValueError(f"more than {most_bytes} bytes")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) < HEADER_BYTES:
        raise ValueError("it has no MATLAB v5 header")
    found: dict[str, NDArray[Any] | str] = {}
    for kind, data in _elements(content[HEADER_BYTES:], order):
        if kind == COMPRESSED:
            [(kind, data)] = _elements(_unpack(data, most_bytes), order)
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where a variable should be")
        name, value = _variable(data, order)
        if name in names and value is not None:
            found[name] = value
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of consecutive elements; those of at most four bytes have a tag of half the size."""
    at = 0
    while at < len(content):
        if len(content) - at < TAG_BYTES:
            raise ValueError("it ends inside an element")
        first, size = struct.unpack_from(f"{order}II", content, at)
        start, kind = at + TAG_BYTES, first
        if first >> 16:
            start, kind, size = at + 4, first & 0xFFFF, first >> 16
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        if start + size > len(content):
            raise ValueError("it ends inside an element")
        yield kind, content[start : start + size]
        padding = 0 if kind == COMPRESSED else -size % 8
        at = at + TAG_BYTES if first >> 16 else start + size + padding


def _unpack(data: bytes, most_bytes: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(data, most_bytes)
    except zlib.error as error:
        raise ValueError(f"a compressed element is broken ({error})") from None
    if not unpacking.eof:
        raise ValueError(f"a compressed element is cut off or larger than {most_bytes} bytes")
    return content


def _variable(data: bytes, order: str) -> tuple[str, NDArray[Any] | str | None]:
    """Name and value of a matrix element; None for classes that are passed over."""
    parts = list(_elements(data, order))
    if len(parts) < 3 or len(parts[0][1]) < 4 or len(parts[1][1]) % 4:
        raise ValueError("a variable without flags, shape and name")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    shape = tuple(int(size) for size in np.frombuffer(parts[1][1], f"{order}i4"))
    name = parts[2][1].decode("latin-1")
    numeric = flags & 0xFF in NUMERIC_CLASSES and not flags >> 8 & COMPLEX
    if len(parts) < 4 or not (numeric or flags & 0xFF == _TEXT_CLASS):
        return name, None
    kind, values = parts[3]
    if not numeric:
        encoding = _ENCODINGS.get(kind, "utf-8")
        endless = {"<": "-le", ">": "-be"}[order] if encoding in ("utf-16", "utf-32") else ""
        return name, values.decode(encoding + endless)
    if kind not in NUMBERS or len(values) % np.dtype(NUMBERS[kind]).itemsize:
        raise ValueError(f"variable {name!r} holds elements of type {kind}")
    array = np.frombuffer(values, f"{order}{NUMBERS[kind]}")
    if min(shape, default=0) < 0 or math.prod(shape) != len(array):
        raise ValueError(f"variable {name!r} of shape {shape} holds {len(array)} values")
    return name, array.reshape(shape, order="F").astype(array.dtype.newbyteorder("="))
