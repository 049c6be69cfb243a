"""The ways to run a selective scan, chosen by device."""

import logging
from functools import cache
from typing import Literal

import torch

from channels.errors import UserError
from models.scan.build import CannotBuildError
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.kernel_package import SCAN, load_fault
from models.scan.mamba_kernel import kernel_convolution, kernel_scan
from models.scan.native import load_library, native_convolution, native_scan
from models.scan.problem import Backend, ScanProblem

Wanted = Literal["auto", "native", "torch", "triton", "mamba_ssm"]
FASTEST: dict[str, tuple[Wanted, ...]] = {"cuda": ("triton", "mamba_ssm"), "cpu": ("native",)}
"""What ``auto`` tries on a device, in this order, before ``torch``."""


@cache
def choose_backend(device: str, wanted: Wanted = "auto", packed: bool = False) -> Backend:
    """The backend for a device type (``cpu``, ``cuda``), logged once a process.

    ``auto``: the first of ``FASTEST`` that runs there, else ``torch``; on CUDA each is tried on the device. packed: for
    packed sequences. Raises UserError where the wanted one cannot run.
    """
    backend, reasons = None, []
    for name in FASTEST.get(device, ()) if wanted == "auto" else (wanted,):
        backend, reason = _backend(name, device)
        if packed and backend is not None and not backend.packs:
            backend, reason = None, f"{name} has no sequence boundaries for packed batches"
        if backend is not None:
            break
        reasons.append(str(reason))
    if backend is None and wanted != "auto":
        raise UserError(f"the backend {wanted!r} cannot run: {reasons[0]}", where="scan", mend="take scan: auto")
    since = f", since {'; '.join(reasons)}" if reasons else ""
    backend = backend or _torch_backend(f"torch, chunked and slow{since}")
    logging.getLogger(__name__).info("selective scan on %s: %s", device, backend.note)
    return backend


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def compiler_knows(device: str, wanted: Wanted) -> bool:
    """Whether torch.compile can trace through the chosen backend, whose operations it then takes as they are."""
    return choose_backend(device, wanted, False).name == "triton"


def _backend(wanted: Wanted, device: str) -> tuple[Backend | None, str | None]:
    """The backend, or why there is none."""
    if wanted == "native":
        return _native_backend(device)
    if wanted == "torch":
        return _torch_backend("torch (chunked)"), None
    if device != "cuda":
        return None, f"it runs on CUDA, not on {device!r}"
    backend, reason = _triton_backend() if wanted == "triton" else _kernel_backend()
    if backend is not None and (fault := _fault_on_device(backend)) is not None:
        return None, fault
    return backend, reason


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


def _triton_backend() -> tuple[Backend | None, str | None]:
    try:
        from models.scan.triton_backend import TRITON
    except ImportError as error:
        return None, f"triton does not load ({_one_line(error)})"
    return TRITON, None


def _kernel_backend() -> tuple[Backend | None, str | None]:
    if (reason := load_fault(SCAN)) is not None:
        return None, f"{reason} (docs/models-wimamba.md says how to build it)"
    note = "mamba_ssm (compiled CUDA kernel)"
    return Backend("mamba_ssm", note, kernel_scan, kernel_convolution, half=True, packs=False), None


def _fault_on_device(backend: Backend) -> str | None:
    """Why its kernels do not run on the current CUDA device, in one line: built for another one, no compiler. Or None.

    None, too, on a machine without a GPU that plans for one that has.
    """
    if not torch.cuda.is_available():
        return None
    series, fixed = torch.ones(1, 4, 1, 8, device="cuda"), torch.ones(1, 8, device="cuda")
    rates = -torch.ones(1, 8, 8, device="cuda")
    problem = ScanProblem(
        u=series, delta=series, A=rates, B=series, C=series, D=fixed, z=series, delta_bias=fixed, softplus=True,
        reverse=(True,), lengths=None,
    )  # fmt: skip
    try:
        with torch.no_grad():
            backend.scan(problem)
            backend.convolution(series, torch.ones(1, 8, 4, device="cuda"), fixed, (True,), None)
            torch.cuda.synchronize()
    except Exception as error:  # Compilers, drivers and extensions fail in many ways.
        return f"{backend.name} does not run on {torch.cuda.get_device_name()} ({_one_line(error)})"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
