"""The newest training states in the memory of the machine, for ranks that are started again there.

Every rank copies its share into one of two files of shared memory in turn, which outlive the process, and marks the
file with the step. All ranks are at the same step, so of the two states that each one has at least one is common to
all, whenever a rank was killed. No rank waits for another, and nothing is forced to a disk or checked by its sum.
"""

import json
import mmap
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
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
_ANY = "rank-*"
"""Names of the files of all ranks; other things may lie beside them."""


class MemoryStates:
    """This rank's share of the two newest states. folder: in the machine's memory, the same for all ranks there.

    group: names this start of the ranks; shares of two starts make no state, as steps of both may differ in rounding.
    clears: the ranks of this machine, where this one clears the folder of what all others have left there; none else.
    """

    def __init__(
        self, folder: Path, state: TrainingState, rank: int, world: int, group: str, *, clears: Collection[int] = ()
    ) -> None:
        self._folder, self._state = folder, state
        self._own = _stem(rank, world)
        self._kept = tuple(_stem(number, world) + "-" for number in clears)
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
        if self._saved == 2 and self._kept:
            # Of another number of ranks, or of ranks that are on other machines now; by now there is a state of these.
            for path in self._folder.glob(_ANY):
                if not path.name.startswith(self._kept):
                    path.unlink()


def _stem(rank: int, world: int) -> str:
    return f"rank-{rank:05d}-of-{world:05d}"


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
            # Views that stay: whatever the engine, the optimizer steps its tensors in place.
            self._fragments = state.share()
        self._copy.take(self._fragments)
        document = {entry.name: getattr(info, entry.name) for entry in fields(info)}
        document["files"] = {self._file.name: (self._copy.size, "")}
        _write_mark(self._mark, json.dumps({"group": self._group, "info": document}))

    def _map(self, header: bytes, length: int) -> Tensor:
        content = _mapped(self._file, len(header) + 4 * length)
        content[: len(header)] = header
        if not length:
            return torch.empty(0)
        return torch.frombuffer(content, dtype=torch.float32, offset=len(header), count=length)


@dataclass(frozen=True, slots=True)
class Share:
    """A file that lies in a folder, and what its mark says. state: the start of the ranks, and the step."""

    state: tuple[str, int]
    name: str
    size: int
    text: str

    @property
    def info(self) -> dict[str, Any]:
        """Fields of the state's :class:`CheckpointInfo`, of which ``files`` names this share only."""
        return dict(json.loads(self.text)["info"])


def shares_in(folder: Path) -> list[Share]:
    """All whole shares that lie in a folder."""
    found = []
    for mark in sorted(folder.glob(f"*{MARK}")):
        content = mark.read_bytes()
        length = int.from_bytes(content[:LENGTH_BYTES], "little")
        if length:
            text = content[LENGTH_BYTES : LENGTH_BYTES + length].decode()
            document = json.loads(text)
            ((name, (size, _)),) = document["info"]["files"].items()
            found.append(Share((document["group"], document["info"]["step"]), name, size, text))
    return found


def newest_of(shares: Iterable[Share]) -> list[Share]:
    """Those of the newest state that is complete, by name; none where there is none."""
    states: dict[tuple[str, int], dict[str, Share]] = defaultdict(dict)
    for share in shares:
        states[share.state][share.name] = share
    complete = [found for found in states.values() if len(found) == next(iter(found.values())).info["world_size"]]
    newest = max(complete, key=lambda found: next(iter(found.values())).state[1], default={})
    return [share for _, share in sorted(newest.items())]


def info_of(shares: Sequence[Share]) -> CheckpointInfo:
    """What all shares of a state say of it; rank 0's comes first."""
    files = {share.name: (share.size, "") for share in shares}
    return TypeAdapter(CheckpointInfo).validate_python({**shares[0].info, "files": files})


def adopt(folder: Path, share: Share) -> Tensor:
    """Room for a share of another machine, uint8 [bytes]; without a mark until :func:`mark_as`."""
    path = folder / share.name
    path.with_suffix(MARK).unlink(missing_ok=True)
    return content_of(folder, share.name, share.size)


def mark_as(folder: Path, share: Share) -> None:
    """Mark the file of a share as whole."""
    _write_mark(_mapped((folder / share.name).with_suffix(MARK), MARK_BYTES), share.text)


def remove(folder: Path, share: Share) -> None:
    """Remove a share and its mark, as far as they are there."""
    for path in ((folder / share.name).with_suffix(MARK), folder / share.name):
        path.unlink(missing_ok=True)


def content_of(folder: Path, name: str, size: int) -> Tensor:
    """The bytes of a file in memory, uint8 [size]."""
    return torch.frombuffer(_mapped(folder / name, size), dtype=torch.uint8)


def _write_mark(mark: mmap.mmap, text: str) -> None:
    content = text.encode()
    mark[LENGTH_BYTES : LENGTH_BYTES + len(content)] = content
    mark[:LENGTH_BYTES] = len(content).to_bytes(LENGTH_BYTES, "little")


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A file of so many bytes, all of which are there: a write into missing memory would kill the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
