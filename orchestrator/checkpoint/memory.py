"""The newest training states in the memory of the machine, for ranks that are started again there.

Every rank copies its share into one of two files of shared memory in turn, which outlive the process, and marks the
file with the step. All ranks are at the same step, so of the two states that each one has at least one is common to
all, whenever a rank was killed. No rank waits for another, and nothing is forced to a disk or checked by its sum.
"""

import json
import mmap
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.fragments import Fragment, TrainingState
from orchestrator.checkpoint.state_files import SUFFIX, HostCopy

MARK = ".mark"
MARK_BYTES = 1 << 16
LENGTH_BYTES = 8


class MemoryStates:
    """This rank's share of the two newest states. folder: in the machine's memory, the same for all ranks.

    group: names this start of the ranks; shares of two starts make no state, as steps of both may differ in rounding.
    """

    def __init__(self, folder: Path, state: TrainingState, rank: int, world: int, group: str) -> None:
        self._folder, self._state = folder, state
        self._own = f"rank-{rank:05d}-of-{world:05d}"
        self._clears = rank == 0
        self._slots = [_Slot(folder, f"{self._own}-{number}", group) for number in (0, 1)]
        self._saved = self._next = 0

    def go_on_from(self, info: CheckpointInfo) -> None:
        """Keep the state that a start goes on from until the next one is complete."""
        self._next = int(f"{self._own}-0{SUFFIX}" in info.files)

    def save(self, info: CheckpointInfo) -> None:
        """Copy this rank's share; every rank calls it after the same steps.

        Raises:
            OSError: the memory is full.
        """
        self._slots[self._next].write(self._state, info)
        self._next = 1 - self._next
        self._saved += 1
        if self._saved == 2 and self._clears:
            # Of another number of ranks; by now there is a state of this one.
            for path in self._folder.iterdir():
                if f"-of-{info.world_size:05d}-" not in path.name:
                    path.unlink()


class _Slot:
    """A file of fragments and its mark, a file that says how long its text is before the text."""

    def __init__(self, folder: Path, name: str, group: str) -> None:
        self._group = group
        self._file, self._mark_file = folder / f"{name}{SUFFIX}", folder / f"{name}{MARK}"
        self._copy = HostCopy(self._map)
        self._mark: mmap.mmap | None = None
        self._fragments: list[Fragment] | None = None

    def write(self, state: TrainingState, info: CheckpointInfo) -> None:
        if self._mark is None:
            self._mark = _mapped(self._mark_file, MARK_BYTES)
        self._mark[:LENGTH_BYTES] = bytes(LENGTH_BYTES)
        if self._fragments is None:
            # Views that stay: whatever the engine, AdamW steps its tensors in place.
            self._fragments = state.share()
        self._copy.take(self._fragments)
        document = {entry.name: getattr(info, entry.name) for entry in fields(info)}
        document["files"] = {self._file.name: (self._copy.size, "")}
        text = json.dumps({"group": self._group, "info": document}).encode()
        self._mark[LENGTH_BYTES : LENGTH_BYTES + len(text)] = text
        self._mark[:LENGTH_BYTES] = len(text).to_bytes(LENGTH_BYTES, "little")

    def _map(self, header: bytes, length: int) -> Tensor:
        content = _mapped(self._file, len(header) + 4 * length)
        content[: len(header)] = header
        if not length:
            return torch.empty(0)
        return torch.frombuffer(content, dtype=torch.float32, offset=len(header), count=length)


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A file of so many bytes, all of which are there: a write into missing memory would kill the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def newest_in_memory(folder: Path) -> CheckpointInfo | None:
    """The newest state of which all shares lie in a folder; ``files`` names them."""
    shares: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for mark in sorted(folder.glob(f"*{MARK}")):
        content = mark.read_bytes()
        length = int.from_bytes(content[:LENGTH_BYTES], "little")
        if length:
            document = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])
            shares[document["group"], document["info"]["step"]].append(document["info"])
    complete = [found for found in shares.values() if len(found) == found[0]["world_size"]]
    if not complete:
        return None
    found = max(complete, key=lambda state: int(state[0]["step"]))
    files = {name: entry for document in found for name, entry in document["files"].items()}
    return TypeAdapter(CheckpointInfo).validate_python({**found[0], "files": files})
