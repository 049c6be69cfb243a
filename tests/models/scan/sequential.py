"""The selective scan written down literally, one step after the other: the reference that the backends are held to."""

import torch
from torch import Tensor
from torch.nn import functional

from models.scan.problem import ScanProblem


def sequential_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, sample by sample, in the precision of its operands; slow."""
    u, steps = problem.u, problem.steps
    counts = [u.shape[1]] * u.shape[0] if problem.lengths is None else problem.lengths.tolist()
    samples = []
    for sample, count in enumerate(counts):
        series = [part[sample, :count].unbind(1) for part in (u, steps, problem.B, problem.C)]
        fixed = [part.unbind(0) for part in (problem.A, problem.D)]
        groups = [_scan_group(*operands) for operands in zip(*series, *fixed, problem.reverse, strict=True)]
        samples.append(functional.pad(torch.stack(groups, dim=1), (0, 0, 0, 0, 0, u.shape[1] - count)))
    out = torch.stack(samples)
    return out if problem.z is None else out * functional.silu(problem.z)


def _scan_group(u: Tensor, steps: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, backward: bool) -> Tensor:
    """Output [L, P] of u, steps [L, P], B, C [L, N], A [P, N], D [P]."""
    if not len(u):
        return u
    decays = torch.exp(steps[..., None] * A).unbind(0)
    sources = ((steps * u)[..., None] * B[:, None]).unbind(0)
    states = [torch.zeros_like(A)] * len(u)
    state = states[0]
    for index in reversed(range(len(u))) if backward else range(len(u)):
        state = decays[index] * state + sources[index]
        states[index] = state
    return (torch.stack(states) @ C[..., None]).squeeze(-1) + D * u
