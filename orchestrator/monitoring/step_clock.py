"""For how long this rank computes in a step and for how long it communicates, measured without waiting for a device."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """On a CPU the seconds of this step; on CUDA those of the last step that the device has finished, by its clock."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started = 0.0
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0

    def start(self) -> None:
        """The step begins."""
        self._started = time.perf_counter()
        if self._on_gpu:
            self._under_way.append((_mark(), torch.cuda.Event(enable_timing=True)))  # type: ignore[no-untyped-call]

    def stop(self) -> float:
        """All of this rank's own work is done or queued; seconds that it takes."""
        if not self._on_gpu:
            return time.perf_counter() - self._started
        self._under_way[-1][1].record()
        while len(self._under_way) > 1 and self._under_way[0][1].query():  # type: ignore[no-untyped-call]
            begun, ended = self._under_way.popleft()
            self._seconds = begun.elapsed_time(ended) / 1e3
        return self._seconds


class ExchangeClock:
    """For how long this process is in collective operations, which on a CPU includes waiting for other ranks."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of a ``with``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - started

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
