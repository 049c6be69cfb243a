"""When a state is kept in the machine's memory: as often as costs no more than a hundredth of the training's time."""

import math
import os
import platform
import statistics
import time
import uuid
from pathlib import Path

import torch
import torch.distributed as dist

from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.free_memory import ROOM, held_in, room_in
from orchestrator.checkpoint.machines import Machines
from orchestrator.checkpoint.memory import MemoryStates

SHARE = 0.01
"""Of the time of training, that the copies may take."""
WARM_UP = 2
"""Copies that make the files, and say nothing about the later ones."""
MOST_STEPS = 10_000
STATES = 2
FLOAT_BYTES = 4


class MemoryKeeper:
    """Copies of this rank's share after some steps; every rank makes the same calls after the same steps.

    device: over which the ranks agree.
    """

    def __init__(self, machines: Machines, states: MemoryStates, device: torch.device) -> None:
        self.machines = machines
        self._states = states
        self._device = device
        self._is_full = False
        self._every, self._next = 1, 0
        self._saved, self._agrees_at = 0, WARM_UP + 4
        self._last_step, self._ended = 0, math.nan
        self._costs: list[float] = []
        # Seconds of a step, one mean a copy.
        self._steps: list[float] = []

    def is_due(self, step: int) -> bool:
        """Whether the state after so many steps is kept."""
        return step >= self._next

    def go_on_from(self, info: CheckpointInfo) -> None:
        """A start goes on from this state, which stays until the next one is complete."""
        self._states.go_on_from(info)

    def save(self, info: CheckpointInfo) -> None:
        """Copy this rank's share of the state after ``info.step`` steps."""
        started = time.perf_counter()
        if not self._is_full:
            try:
                self._states.save(info)
            except OSError:
                # Other programs have filled it since the start; all ranks learn of it where they agree.
                self._is_full = True
        if self._saved > WARM_UP:
            self._steps.append((started - self._ended) / max(info.step - self._last_step, 1))
            self._costs.append(time.perf_counter() - started)
        self._saved += 1
        self._last_step, self._next = info.step, info.step + self._every
        self._ended = time.perf_counter()

    def agree(self) -> None:
        """Now and then after a copy, how often from now on (collective): the cost of a copy over that of the steps, on
        the rank where it is highest."""
        if self._saved < self._agrees_at:
            return
        # Other programs may hold a copy up now and then, and checkpoints and exports a step.
        own = steps_between(statistics.median(self._costs), statistics.median(self._steps))
        agreed = torch.tensor([MOST_STEPS if self._is_full else own], device=self._device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self._every = int(agreed)
        self._next = self._last_step + self._every
        self._agrees_at *= 2
        self._costs.clear()
        self._steps.clear()
        self._ended = time.perf_counter()


def steps_between(copy_s: float, step_s: float) -> int:
    """Steps between two copies, so that these take their share of the time at most."""
    return min(max(math.ceil(copy_s / max(SHARE * step_s, 1e-9)), 1), MOST_STEPS)


def open_memory(folder: Path | None, state: TrainingState, rank: int, world: int, device: torch.device) -> "Opened":
    """The keeper of this rank (collective), or why there is none. folder: in this machine's memory, None: none."""
    size = FLOAT_BYTES * sum(fragment.length * len(fragment.tensors) for fragment in state.share())
    where = str(folder) if folder is not None and _is_ours(folder) else None
    own = (f"{platform.node()}:{where}", where, size, _room(folder), uuid.uuid4().hex)
    found = [own] * world
    dist.all_gather_object(found, own)
    names, folders, sizes, free, groups = zip(*found, strict=True)
    if None in folders:
        return None, "this session has no folder in a machine's memory"
    for name in names:
        here = [number for number, other in enumerate(names) if other == name]
        needed = STATES * sum(sizes[number] for number in here)
        if needed > ROOM * min(free[number] for number in here):
            return None, f"{needed / 2**20:.0f} MiB take more than half of what is free"
    assert folder is not None
    machines = Machines(folder, rank, names)
    clears = machines.here if machines.here[0] == rank else ()
    states = MemoryStates(folder, state, rank, world, groups[0], clears=clears)
    return MemoryKeeper(machines, states, device), None


Opened = tuple[MemoryKeeper | None, str | None]


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and folder.stat().st_uid == os.getuid()


def _room(folder: Path | None) -> int:
    """Bytes that states in a folder may have, of which it may hold some already."""
    return 0 if folder is None else room_in(folder) + held_in(folder)
