"""What kind of file something is, by its first bytes and not by its name, and what arrays it holds."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from channels.errors import UserError
from channels.importers.files.arrays import Contents

_HDF5 = b"\x89HDF\r\n\x1a\n"
_LFS = b"version https://git-lfs"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OFFSETS = (0, 512, 1024, 2048, 4096)
"""Where HDF5's signature may stand: behind a block for the user, which in MATLAB's files has 512 bytes."""

KINDS = ("npy", "npz", "hdf5", "mat5", "torch", "old torch")
"""Kinds that ``contents`` reads; ``kind_of`` has a reason in words for the others."""

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".hdf", ".mat", ".pt", ".pth", ".he5", ".nc", ".pkl", ".pickle")
"""Names of files that may hold arrays; others are not opened."""


def kind_of(path: Path) -> str:
    """One of KINDS, or in words what else the file is."""
    with path.open("rb") as stream:
        head = stream.read(2048)
    if any(_at(path, offset) == _HDF5 for offset in _OFFSETS):
        return "hdf5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04") or head.startswith(b"PK\x05\x06"):
        return _zip_kind(path)
    # Its header has the mark of MATLAB 5 too; HDF5 follows where it is whole.
    if head.startswith(b"MATLAB 7.3"):
        return "a MATLAB 7.3 file that is cut off or overwritten: fetch it again"
    if head[126:128] in (b"IM", b"MI"):
        return "mat5"
    if head.startswith(_OLD_TORCH):
        return "old torch"
    return _other(path, head)


def contents(path: Path) -> Contents:
    """The arrays of a file, without their values. Raises UserError for a file of another kind and a broken one."""
    try:
        kind = kind_of(path)
        if kind in KINDS:
            return _reader(kind, path)(path)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise UserError(what, where=str(path), mend="may you read it?") from error
    raise UserError(kind, where=str(path), mend="see docs/data.md for what is read")


def _reader(kind: str, path: Path) -> Callable[[Path], Contents]:
    """What reads a kind; imported only now, since PyTorch and HDF5 take their time."""
    if kind == "npy":
        from channels.importers.files.npy import npy_contents

        return npy_contents
    if kind == "npz":
        from channels.importers.files.npy import npz_contents

        return npz_contents
    if kind == "hdf5":
        from channels.importers.files.hdf5 import hdf5_contents

        return partial(hdf5_contents, reverse=path.suffix.lower() == ".mat" or _at(path, 0, 6) == b"MATLAB")
    if kind == "mat5":
        from channels.importers.files.mat5_arrays import mat5_contents

        return mat5_contents
    from channels.importers.files.torch_file import torch_contents

    return partial(torch_contents, mapped=kind == "torch")


def _at(path: Path, offset: int, size: int = 8) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # The archive's reader will say what is broken.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return "torch" if path.suffix.lower() in (".pt", ".pth") else "npz"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "torch"
    if path.suffix.lower() == ".npz" or any(name.endswith(".npy") for name in names):
        return "npz"
    return "a zip archive without arrays: unpack it, if there are files inside"


def _other(path: Path, head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(_LFS):
        return "a pointer of Git LFS, not the data: run 'git lfs pull' where it comes from"
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        return "a web page, not the data: its address wants a login, or is not that of the file"
    if path.suffix.lower() == ".mat" and min(int.from_bytes(head[:4], order) for order in ("little", "big")) < 5000:
        return "a MATLAB 4 file, which is not read: load it in MATLAB and save it with -v7.3"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a Python pickle, which is never read: save its arrays with numpy.savez"
    if path.suffix.lower() in SUFFIXES:
        return f"no {path.suffix} file that can be recognised: it begins with {head[:8]!r}"
    return "not a file of arrays"
