"""Further processes of this machine that share the work of a comparison, each on one core.

They only fill the folder: whoever started them reads it afterwards, and does itself what a helper could not, so an
error is raised there. A part of the work is claimed by a lock, which ends with the process that has it.
"""

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from channels.errors import UserError
from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.work import Bench, run_work

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""


@contextmanager
def helpers(count: int, bench: Bench, encoders: Sequence[Encoder], folder: Path, device: str) -> Iterator[None]:
    """For the time of a ``with`` others do parts that nobody has claimed; at its end those under way are waited for."""
    # A forked process would inherit torch's threads as they are.
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_help, args=(bench, tuple(encoders), folder, device), daemon=True) for _ in range(count)
    ]
    for process in started:
        process.start()
    try:
        yield
        for process in started:
            process.join()
    finally:
        for process in started:
            process.terminate()


def _help(bench: Bench, encoders: Sequence[Encoder], folder: Path, device: str) -> None:
    # The one who started this process ends it, also where that one is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    try:
        # From the other end, so that two meet in the middle.
        for encoder in reversed(encoders):
            run_work(bench, encoder, folder, device, _say, wait=False)
    except UserError:
        # It is raised where the same part is done once more.
        return


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
