"""HDF5 files, and MATLAB 7.3 files, which are HDF5 with the axes of every array in reverse."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.importers.files.arrays import NUMBER_KINDS, Contents, Slices, StoredArray, as_numbers

OBJECTS = 4096
"""Most objects of a file that are looked at."""

_HIDDEN = "#"
"""MATLAB keeps the contents of cells in groups of such names."""


def hdf5_contents(path: Path, reverse: bool) -> Contents:
    """The arrays of a file by their path in it; ``reverse`` for files that MATLAB indexes the other way round.

    Raises UserError where the file is damaged, cut off or held by another process.
    """
    arrays: list[StoredArray] = []
    passed: list[tuple[str, str]] = []
    with opened_hdf5(path) as file:
        for key, dataset in _datasets(file):
            reason = _reason_to_pass(dataset)
            array = _array(path, key, dataset, reverse) if reason is None else None
            if array is None:
                passed.append((key, reason or f"records of type {dataset.dtype}"))
            else:
                arrays.append(array)
    return Contents(path, "MATLAB 7.3" if reverse else "HDF5", tuple(arrays), tuple(passed))


def hdf5_values(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any] | str]:
    """Small variables of a MATLAB 7.3 file: numbers in MATLAB's shape, text as one string."""
    found: dict[str, NDArray[Any] | str] = {}
    with opened_hdf5(path) as file:
        for name in names:
            dataset = file.get(name)
            if dataset is None or not hasattr(dataset, "shape") or dataset.size is None or dataset.size > 4096:
                continue
            values = np.asarray(dataset[()])
            if dataset.attrs.get("MATLAB_class") in (b"char", "char") and values.dtype.kind == "u":
                found[name] = "".join(chr(int(code)) for code in values.T.ravel(order="F"))
            elif values.dtype.kind in "OS":
                text = values.ravel()[0] if values.size else b""
                found[name] = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            else:
                found[name] = values.T
    return found


def _datasets(file: Any) -> list[tuple[str, Any]]:
    """Every dataset that the file itself holds; links are not followed, so nothing leads out of it."""
    import h5py

    found: list[tuple[str, Any]] = []

    def visit(key: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset) and not key.startswith(_HIDDEN):
            found.append((key, item))
        return True if len(found) >= OBJECTS else None

    file.visititems(visit)
    return found


def _reason_to_pass(dataset: Any) -> str | None:
    import h5py

    matlab = dataset.attrs.get("MATLAB_class")
    kind = matlab.decode("utf-8", "replace") if isinstance(matlab, bytes) else matlab
    if kind in ("cell", "struct", "char", "function_handle", "table", "string"):
        return "text" if kind in ("char", "string") else f"a {kind}"
    if dataset.shape is None or dataset.attrs.get("MATLAB_empty"):
        return "empty"
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return "text"
    if dataset.dtype.hasobject or h5py.check_ref_dtype(dataset.dtype) is not None:
        return "references to objects"
    if dataset.is_virtual or dataset.external:
        return "its values lie in other files"
    if dataset.dtype.names is None and dataset.dtype.kind not in NUMBER_KINDS:
        return f"of type {dataset.dtype}"
    return None


def _array(path: Path, key: str, dataset: Any, reverse: bool) -> StoredArray | None:
    shape = tuple(int(length) for length in dataset.shape)
    last = len(shape) - 1

    @contextmanager
    def opened() -> Iterator[Slices]:
        with opened_hdf5(path) as file:
            values = file[key]

            def read(axis: int, start: int, end: int) -> NDArray[Any]:
                if not shape:
                    return np.asarray(values[()]).reshape(1)
                cut = [slice(None)] * (last + 1)
                cut[last - axis if reverse else axis] = slice(start, end)
                part = np.asarray(values[tuple(cut)])
                return part.T if reverse else part

            yield read

    blocks = None if dataset.chunks is None else tuple(int(length) for length in dataset.chunks)
    if reverse:
        shape, blocks = shape[::-1], blocks[::-1] if blocks else None
    return as_numbers(StoredArray(path, key, shape, dataset.dtype, opened, blocks))


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """The file, opened without a lock: sources lie on storage that has none, and others may be reading them."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    # HDF5 finds damage late, and h5py then raises what it is reading at that moment.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _cause(path, error) from error


def _cause(path: Path, error: Exception) -> UserError:
    text = str(error)
    if isinstance(error, PermissionError):
        return UserError("not allowed to read it", where=str(path), mend="ask its owner, or copy it")
    if "already open for write" in text or _is_locked(path):
        what = f"another process has it open for writing, or ended while it had ({text})"
        return UserError(what, where=str(path), mend="wait until it is closed, or run h5clear -s on a copy")
    if "truncated file" in text:
        return UserError(f"it is cut off ({text})", where=str(path), mend="fetch it again")
    return UserError(f"cannot be read as HDF5 ({text})", where=str(path), mend="it is damaged: fetch it again")


def _is_locked(path: Path) -> bool:
    """Whether a writer holds HDF5's lock on the file; False where locks do not work."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
