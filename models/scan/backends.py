"""One selective scan, several backends, chosen by device."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
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


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    reverse: tuple[bool, ...] = (False,),
    lengths: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Selective scan of Mamba (Gu and Dao 2023, algorithm 2), all groups in one call.

    With d = softplus(delta + delta_bias): h_t = exp(d_t A) h_{t-1} + d_t B_t u_t; y_t = (C_t h_t + D u_t) silu(z_t).
    u, delta, z: [batch, L, groups, channels]. B, C: [batch, L, groups, states]. A: [groups, channels, states]. D,
    delta_bias: [groups, channels]. reverse: one flag a group, True to scan from the last token to the first. lengths:
    int64 [batch], valid tokens of a padded batch: no padding reaches a valid token, in either direction, and the output
    is zero in padding. Returns [batch, L, groups, channels] of u's type; computed in float32 (float64 if u is).
    """
    assert len(reverse) == u.shape[2], "one direction a group"
    assert u.shape == delta.shape, "one step size a channel"
    assert B.shape == C.shape == (*u.shape[:3], A.shape[-1]), "one B and C a group"
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    problem = ScanProblem(
        u=u.to(compute),
        delta=delta.to(compute),
        A=A.to(compute),
        B=B.to(compute),
        C=C.to(compute),
        D=D.to(compute),
        z=None if z is None else z.to(compute),
        delta_bias=None if delta_bias is None else delta_bias.to(compute),
        softplus=softplus,
        reverse=reverse,
        lengths=lengths,
    )
    return (backend or choose_backend(u.device.type)).scan(problem).to(u.dtype)


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    reverse: tuple[bool, ...] = (False,),
    lengths: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """SiLU of the depthwise causal convolution before the scan; in reversed groups it looks at later tokens.

    x: [batch, L, groups, channels]. weight: [groups, channels, taps], the last tap for the token itself. bias: [groups,
    channels]. lengths: as of ``selective_scan``. Returns the shape and type of x.
    """
    assert len(reverse) == x.shape[2], "one direction a group"
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    convolution = (backend or choose_backend(x.device.type)).convolution
    return convolution(x.to(compute), weight.to(compute), bias.to(compute), reverse, lengths).to(x.dtype)


@cache
def choose_backend(device: str, wanted: Wanted = "auto") -> Backend:
    """The backend for a device type (``cpu``, ``cuda``), logged once a process.

    ``auto``: ``mamba_ssm`` on CUDA if its compiled extension is there, ``native`` (C with OpenMP) on the CPU if a C
    compiler is there, else ``torch``. Raises UserError where the one asked for cannot run.
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
        return None, f"{reason} (docs/models-wimamba.md tells how to build it)"
    return Backend("mamba_ssm", "mamba_ssm (compiled CUDA kernel)", kernel_scan, shifted_convolution), None
