"""The ways to run a selective scan, chosen by device."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch import Tensor

from channels.errors import UserError
from models.scan.build import CannotBuildError
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.mamba_kernel import kernel_scan, missing_kernel
from models.scan.native import load_library, native_convolution, native_scan
from models.scan.problem import ScanProblem

Wanted = Literal["auto", "native", "torch", "mamba_ssm"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run scans. note: one line for the log, what runs and why.

    convolution: of (x, weight, bias, reverse, lengths), as of ``short_convolution``.
    """

    name: str
    note: str
    scan: Callable[[ScanProblem], Tensor]
    convolution: Callable[[Tensor, Tensor, Tensor, tuple[bool, ...], Tensor | None], Tensor]


@cache
def choose_backend(device: str, wanted: Wanted = "auto") -> Backend:
    """The backend for a device type (``cpu``, ``cuda``), logged once a process.

    ``auto``: ``mamba_ssm`` on CUDA if its compiled extension is there, ``native`` (C with OpenMP) on the CPU if a C
    compiler is there, else ``torch``. Raises UserError where the wanted one cannot run.
    """
    if wanted == "auto":
        wanted = {"cuda": "mamba_ssm", "cpu": "native"}.get(device, "torch")  # type: ignore[assignment]
        backend, reason = _backend(wanted, device)
        backend = backend or _torch_backend(f"torch, chunked and slow, since {reason}")
    else:
        found, reason = _backend(wanted, device)
        if found is None:
            raise UserError(f"the backend {wanted!r} cannot run: {reason}", where="scan", mend="take scan: auto")
        backend = found
    logging.getLogger(__name__).info("selective scan on %s: %s", device, backend.note)
    return backend


def _backend(wanted: Wanted, device: str) -> tuple[Backend | None, str | None]:
    """The backend, or why there is none."""
    if wanted == "native":
        return _native_backend(device)
    if wanted == "mamba_ssm":
        return _kernel_backend(device)
    return _torch_backend("torch (chunked)"), None


def _torch_backend(note: str) -> Backend:
    return Backend("torch", note, chunked_scan, shifted_convolution)


def _native_backend(device: str) -> tuple[Backend | None, str | None]:
    if device != "cpu":
        return None, f"it runs on the CPU, not on {device!r}"
    try:
        load_library()
    except (CannotBuildError, OSError) as error:
        return None, str(error)
    return Backend("native", "native (C with OpenMP)", native_scan, native_convolution), None


def _kernel_backend(device: str) -> tuple[Backend | None, str | None]:
    reason = missing_kernel() if device == "cuda" else f"it runs on CUDA, not on {device!r}"
    if reason is not None:
        return None, f"{reason} (docs/models-wimamba.md says how to build it)"
    return Backend("mamba_ssm", "mamba_ssm (compiled CUDA kernel)", kernel_scan, shifted_convolution), None
