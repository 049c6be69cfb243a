"""The files of a training state: every rank writes one safetensors file of fragments, any rank reads any range.

A tensor of such a file is called ``<parameter>/<first element>/<kind>``. safetensors files hold plain numbers (no
pickle) and are mapped into memory, so a rank reads only what it needs of the others' files.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from channels.errors import UserError
from orchestrator.checkpoint.fragments import WEIGHT, Fragment

SUFFIX = ".safetensors"
PART_BYTES = 2**24
"""Bytes written at a time; other threads run while a part is hashed and written."""


class HostCopy:
    """Copies of fragments in one block of host memory, laid out as the file will be; the block is used again.

    allocate: gives the block, float32 [n], for a header and n; by default it is host memory, ``pinned`` for a GPU.
    """

    def __init__(self, allocate: Callable[[bytes, int], Tensor] | None = None, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._allocate = allocate or (lambda header, length: torch.empty(length, pin_memory=pinned))
        self._block = torch.empty(0)
        self._header = b""
        self._layout: list[tuple[str, int, int]] | None = None
        self._parts: list[Tensor] = []

    def take(self, fragments: Sequence[Fragment]) -> None:
        """Copy fragments; when this returns, training may change them."""
        layout = [(fragment.name, fragment.start, fragment.length) for fragment in fragments]
        if layout != self._layout:
            header, length = _header(fragments)
            self._block, self._header, self._layout = self._allocate(header, length), header, layout
            sizes = [fragment.length for fragment in fragments for _ in fragment.tensors]
            self._parts = list(torch.split(self._block, sizes))
        content = [tensor for fragment in fragments for tensor in fragment.tensors.values()]
        if any(tensor.is_cuda for tensor in content):
            for part, tensor in zip(self._parts, content, strict=True):
                part.copy_(tensor, non_blocking=self._pinned)
        elif content:
            # A call for all of them, which are hundreds of small ones; PyTorch's takes no empty list.
            torch._foreach_copy_(self._parts, content)
        if self._pinned:
            torch.cuda.synchronize()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._header) + self._block.nbytes

    def write(self, path: Path) -> tuple[int, str]:
        """Write the file and force it to the disk; its bytes and sha256."""
        digest = hashlib.sha256()
        content = self._block.numpy().view(np.uint8).data
        parts: list[bytes | memoryview] = [self._header]
        parts += [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
        with path.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        return size, digest.hexdigest()


def _header(fragments: Sequence[Fragment]) -> tuple[bytes, int]:
    """Beginning of a file of fragments, and the elements that follow it."""
    entries: dict[str, Any] = {}
    offset = 0
    for fragment in fragments:
        for kind in fragment.tensors:
            end = offset + fragment.length
            entries[f"{fragment.name}/{fragment.start}/{kind}"] = {
                "dtype": "F32", "shape": [fragment.length], "data_offsets": [4 * offset, 4 * end],
            }  # fmt: skip
            offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, offset


class StateReader:
    """All files of a training state, opened for reading ranges of parameters."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._ranges: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = defaultdict(list)
        self._stack = ExitStack()

    def __enter__(self) -> "StateReader":
        for path in self._paths:
            try:
                self._open(path)
            except (SafetensorError, ValueError, OSError) as error:
                self._stack.close()
                mend = "remove the checkpoint's folder: the one before it is used then"
                raise UserError(f"no file of a training state ({error})", where=str(path), mend=mend) from error
        return self

    def _open(self, path: Path) -> None:
        file = self._stack.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118
            name, start, kind = key.rsplit("/", 2)
            (length,) = file.get_slice(key).get_shape()
            self._ranges[name, kind].append((int(start), int(start) + length, file, key))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def sizes(self) -> dict[str, int]:
        """Elements of every parameter."""
        weights = {name: found for (name, kind), found in self._ranges.items() if kind == WEIGHT}
        return {name: max(stop for _, stop, _, _ in found) for name, found in weights.items()}

    def fill(self, fragment: Fragment) -> None:
        """Read a fragment's range into its tensors.

        Raises:
            ValueError: the files do not hold all of it.
        """
        for kind, tensor in fragment.tensors.items():
            if self._fill(fragment.name, kind, fragment.start, tensor) != len(tensor):
                raise ValueError(f"{kind} of {fragment.name} from element {fragment.start} on is incomplete")

    def _fill(self, name: str, kind: str, first: int, tensor: Tensor) -> int:
        read = 0
        for start, stop, file, key in self._ranges.get((name, kind), ()):
            low, high = max(start, first), min(stop, first + len(tensor))
            if low < high:
                tensor[low - first : high - first].copy_(file.get_slice(key)[low - start : high - start])
                read += high - low
        return read
