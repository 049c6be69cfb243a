"""Saving while training goes on: a copy in host memory, a thread that writes it, and the commit once all ranks have.

No rank waits for another. Once its share is on the disk, a rank says so with the signals of the next step
(:mod:`orchestrator.run.signals`); when all ranks have, rank 0 commits. Until then the state lies in a folder with a
temporary name, which no start reads.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from channels.files import is_disk_full
from orchestrator.checkpoint import format as checkpoints
from orchestrator.checkpoint.disk_space import has_room
from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.state_files import SUFFIX, HostCopy
from orchestrator.run.signals import SILENCE, Signals


@dataclass(frozen=True, slots=True)
class Saved:
    """How the saving of a state ended, as rank 0 knows it."""

    step: int
    stall_ms: float
    """For which training stood still."""
    write_ms: float
    """From the end of the copy until the state was complete."""
    problem: str | None = None
    """Why there is no such state; the last complete one is still there."""


@dataclass(slots=True)
class _Pending:
    info: CheckpointInfo
    stall_ms: float
    copied: float
    writing: "Future[str | None]"


class CheckpointWriter:
    """Writes this rank's share of training states, one state at a time; use it as a context manager.

    keep: how many of the newest states stay. spared: gives the steps of older states that stay too.
    """

    def __init__(
        self,
        state: TrainingState,
        root: Path,
        *,
        keep: int,
        device: torch.device,
        spared: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._state, self._root, self._keep, self._spared = state, root, keep, spared
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._device = device
        self._copy = HostCopy(pinned=device.type == "cuda")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        self._ending: Future[Saved] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)

    def begin(self, info: CheckpointInfo) -> list[Saved]:
        """Copy this rank's share and write it in the background (every rank calls it after the same step).

        Waits for the state before, if that is still being written; returns what became of it.
        """
        started = time.perf_counter()
        ended = self.finish()
        self._copy.take(self._state.share())
        copied = time.perf_counter()
        file = checkpoints.unfinished_folder(self._root, info.step) / self._file_name()
        self._pending = _Pending(info, 1e3 * (copied - started), copied, self._thread.submit(self._write, file))
        return ended

    def signals(self) -> tuple[int, int]:
        """(1, 0) once the pending share is written, (0, 1) if the disk is full, else (0, 0).

        Raises:
            Exception: whatever else went wrong in the thread.
        """
        if self._pending is None or not self._pending.writing.done():
            return 0, 0
        failed = self._pending.writing.result() is not None
        return int(not failed), int(failed)

    def advance(self, agreed: Signals) -> list[Saved]:
        """Take in the signals of all ranks; what is returned, on rank 0, are states that are complete or given up."""
        if self._pending is not None and agreed.written + agreed.unwritten == self._world:
            pending, self._pending = self._pending, None
            if self._rank == 0:
                self._ending = self._thread.submit(self._end, pending, agreed.unwritten)
        if self._ending is None or not self._ending.done():
            return []
        ending, self._ending = self._ending, None
        return [ending.result()]

    def finish(self) -> list[Saved]:
        """Wait until nothing is being written (every rank calls it after the same step)."""
        ended: list[Saved] = []
        if self._pending is not None:
            self._pending.writing.exception()
            sums = torch.tensor(self.signals(), device=self._device)
            dist.all_reduce(sums)
            written, unwritten = map(int, sums.tolist())
            ended += self.advance(Signals(written=written, unwritten=unwritten))
        if self._ending is not None:
            self._ending.exception()
            ended += self.advance(SILENCE)
        return ended

    def _file_name(self) -> str:
        return f"state-{self._rank:05d}-of-{self._world:05d}{SUFFIX}"

    def _write(self, file: Path) -> str | None:
        """Write this rank's share (in the thread); None, or what the system says of a full disk."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # A write that takes the last bytes of a disk leaves none for the run's events, so it is not even begun.
            if not has_room(file.parent, self._copy.size * self._world):
                return os.strerror(errno.ENOSPC)
            size, digest = self._copy.write(file)
            checkpoints.write_mark(file, size, digest)
        except OSError as error:
            if not is_disk_full(error):
                raise
            return str(error.strerror)
        return None

    def _end(self, pending: _Pending, unwritten: int) -> Saved:
        """Commit the state, or remove what there is of it (in the thread of rank 0)."""
        info = pending.info
        problem = f"{unwritten} of {self._world} ranks find the disk full" if unwritten else self._commit(info)
        if problem:
            shutil.rmtree(checkpoints.unfinished_folder(self._root, info.step), ignore_errors=True)
        return Saved(info.step, pending.stall_ms, 1e3 * (time.perf_counter() - pending.copied), problem)

    def _commit(self, info: CheckpointInfo) -> str | None:
        try:
            checkpoints.commit(self._root, info, self._keep, self._spared())
        except OSError as error:
            if not is_disk_full(error):
                raise
            return "the disk is full"
        return None
