"""Seconds of a call, comparable while other work is going on."""

import time
from collections.abc import Callable

import torch


def use_one_thread(device: str) -> None:
    """On a CPU everything runs in one thread, whose seconds :func:`timed` counts."""
    if device == "cpu":
        torch.set_num_threads(1)


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of a call: of the processor on a CPU, of the clock on CUDA."""
    if device == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_rate() -> float:
    """Operations a second of float32 matrix products in one thread, the best of some: the most a CPU reaches."""
    size, best = 1024, 0.0
    left, right = torch.ones(size, size), torch.ones(size, size)
    for _ in range(10):
        best = max(best, 2 * size**3 / timed(lambda: left @ right, "cpu"))
    return best


def device_name(device: str) -> str:
    """What the table and the record call the device."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread"
