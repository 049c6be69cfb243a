"""Which GPUs of a machine are broken: by what NVML counts, and by trying them."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence

from orchestrator.monitoring.gpu_state import GpuState, NvmlError, read_gpus

NO_DEVICE = -1


def find_problem(gpu: GpuState, before: Mapping[str, int], known: Collection[str] = ()) -> str | None:
    """Why nothing should be computed on a GPU after a failure, in a few words; None where NVML knows no reason.

    before: ``uncorrected`` at the start of the attempt, by uuid. known: of :func:`known_problems` at that time. What is
    older says nothing about this failure.
    """
    new = 0 if gpu.uncorrected is None else gpu.uncorrected - before.get(gpu.uuid, gpu.uncorrected)
    problems: list[str] = []
    if gpu.lost is not None:
        problems.append(f"NVML does not reach it ({gpu.lost})")
    if new > 0:
        problems.append(f"{new} new memory errors that ECC could not correct")
    if gpu.remap_failed:
        problems.append("remapping a row of its memory has failed: the GPU must be replaced")
    elif gpu.remap_pending:
        problems.append("a row of its memory waits to be remapped: the GPU must be reset")
    return "; ".join(problem for problem in problems if f"GPU {gpu.index}: {problem}" not in known) or None


def known_problems(gpus: Sequence[GpuState]) -> tuple[str, ...]:
    """What NVML has against the GPUs of a machine before it trains: the trial of the devices finds the others."""
    found = ((gpu.index, find_problem(gpu, {})) for gpu in gpus)
    return tuple(f"GPU {index}: {problem}" for index, problem in found if problem is not None)


def examine_node(
    before: Mapping[str, int], limit_s: float, *, answered: bool = True, known: Collection[str] = ()
) -> str | None:
    """What is wrong with the GPUs of this machine that this process may use, in a line, or None.

    before, known: as of :func:`find_problem`. limit_s: for the trial; a device that keeps it waiting is not blamed for
    that, as the ranks of a group that hangs may hold it. answered: whether NVML answered here when the attempt began;
    where it never does, as in a container without it, that it does not now is nothing new.
    """
    gpus: list[GpuState] = []
    try:
        gpus = read_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except NvmlError as error:
        if answered:
            return str(error)
    found = {gpu.index: problem for gpu in gpus if (problem := find_problem(gpu, before, known)) is not None}
    # A task without a claim on a GPU may see none, which says nothing about the machine.
    if not found and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        # A trial counts as CUDA does, which begins at 0 with the first that this process may use.
        tried = _try(limit_s).items()
        found = {gpus[number].index if 0 <= number < len(gpus) else number: problem for number, problem in tried}
    names = {gpu.index: gpu.pci for gpu in gpus}
    return "; ".join(f"{_name(index, names)}{problem}" for index, problem in found.items()) or None


def _name(index: int, addresses: Mapping[int, str]) -> str:
    if index == NO_DEVICE:
        return ""
    return f"GPU {index} ({addresses[index]}): " if index in addresses else f"GPU {index}: "


def _try(limit_s: float) -> dict[int, str]:
    """In a process of its own, whose CUDA context ends with it."""
    command = [sys.executable, "-m", "orchestrator.monitoring.device_trial"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {}
    return _read_trial(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def _read_trial(code: int, printed: Sequence[str], errors: Sequence[str]) -> dict[int, str]:
    """What a trial printed; a crash is itself a finding, though of no known device.

    One that ended with an error of Python's, as where a package is missing, says nothing about a device.
    """
    if code == 0 and printed:
        return {int(number): problem for number, problem in json.loads(printed[-1]).items()}
    said = next((line for line in reversed(errors) if line.strip()), "no output")
    if code >= 0:
        logging.getLogger(__name__).warning("the devices could not be tried (status %d): %s", code, said)
        return {}
    return {NO_DEVICE: f"the trial of the devices was ended by signal {-code} ({said[:200]})"}
