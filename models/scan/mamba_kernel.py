"""The CUDA kernel of the mamba-ssm package as a backend."""

import importlib

import torch
from torch import Tensor
from torch.nn import functional

from models.scan.kernel_package import EXTENSION, PACKAGE, missing_part
from models.scan.problem import ScanProblem, valid_steps

INTERFACE = f"{PACKAGE}.ops.selective_scan_interface"


def missing_kernel() -> str | None:
    """Why the kernel cannot run, in one line, or None. Loads it where it is installed."""
    if (missing := missing_part()) is not None:
        return missing
    for module in (EXTENSION, INTERFACE):
        try:
            importlib.import_module(module)
        except Exception as error:  # An extension built for another PyTorch fails in many ways.
            return f"{module} is installed but does not load ({' '.join(str(error).split())[:200]})"
    return None


def kernel_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, on a CUDA device: one kernel call for the channels of all groups.

    The kernel wants time innermost, so every series is copied once; that copy reverses the time of reversed groups.
    """
    u, reverse = problem.u, problem.reverse
    if problem.lengths is not None:
        # The kernel knows no lengths. A padded step without input leaves a zero state zero.
        u = u * valid_steps(u, problem.lengths)
    series = [time_innermost(part, reverse) for part in (u, problem.delta, problem.B, problem.C)]
    channels, steps = (part.flatten(1, 2) for part in series[:2])
    bias = None if problem.delta_bias is None else problem.delta_bias.flatten()
    fixed = (problem.A.flatten(0, 1), series[2], series[3], problem.D.flatten())
    selective_scan_fn = importlib.import_module(INTERFACE).selective_scan_fn
    out = selective_scan_fn(channels, steps, *fixed, delta_bias=bias, delta_softplus=problem.softplus)
    mixed = time_second(out.unflatten(1, u.shape[2:]), reverse)
    if problem.lengths is not None:
        mixed = mixed * valid_steps(mixed, problem.lengths)
    return mixed if problem.z is None else mixed * functional.silu(problem.z)


def time_innermost(series: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """[batch, groups, features, L], contiguous, of a series [batch, L, groups, features]."""
    groups = [part.flip(1) if backward else part for part, backward in zip(series.unbind(2), reverse, strict=True)]
    return torch.stack([group.transpose(1, 2) for group in groups], dim=1)


def time_second(series: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """The inverse of ``time_innermost``."""
    groups = [part.flip(2) if backward else part for part, backward in zip(series.unbind(1), reverse, strict=True)]
    return torch.stack([group.transpose(1, 2) for group in groups], dim=2)
