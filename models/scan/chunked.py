"""The selective scan in plain PyTorch, for devices without a kernel and machines without a compiler.

The sequence is cut into chunks. All chunks are scanned side by side from a zero state, then the states at their ends
are carried from chunk to chunk: 32 + L / 32 steps in Python instead of L, memory linear in L.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.scan.problem import ScanProblem, align_time, valid_steps

CHUNK = 32


def chunked_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, in the precision of its operands."""
    u, steps = problem.u, problem.steps
    valid = None if problem.lengths is None else valid_steps(u, problem.lengths)
    if valid is not None:
        # A padded step without input leaves a zero state zero: the backward direction starts at the last valid token.
        u = u * valid
    series = [align_time(part, problem.reverse) for part in (steps, steps * u, problem.B, problem.C)]
    out = align_time(_scan_chunks(series, problem.A), problem.reverse) + u * problem.D
    if valid is not None:
        out = out * valid
    return out if problem.z is None else out * functional.silu(problem.z)


def _scan_chunks(series: list[Tensor], A: Tensor) -> Tensor:
    """C h [batch, L, G, P] of step sizes, step sizes times u [batch, L, G, P], and B, C [batch, L, G, N]."""
    length = series[0].shape[1]
    steps, driven, B, C = (functional.pad(part, (0, 0, 0, 0, 0, -length % CHUNK)) for part in series)
    # Not indexed: the gradient of an index is a whole tensor of zeros, that of unbind is one for all steps.
    decays = _cut(torch.exp(steps[..., None] * A)).unbind(0)
    sources = _cut(driven[..., None] * B[..., None, :]).unbind(0)
    state, product = sources[0], decays[0]
    states, products = [state], [product]
    for decay, source in zip(decays[1:], sources[1:], strict=True):
        state = decay * state + source
        product = decay * product
        states.append(state)
        products.append(product)
    carried = _carry(state, product)
    readouts = _cut(C)[..., None].unbind(0)
    outputs = [(s + p * carried) @ c for s, p, c in zip(states, products, readouts, strict=True)]
    return torch.stack(outputs, dim=2).squeeze(-1).flatten(1, 2)[:, :length]


def _cut(series: Tensor) -> Tensor:
    """[CHUNK, batch, chunks, ...] of [batch, chunks * CHUNK, ...]."""
    return series.reshape(len(series), -1, CHUNK, *series.shape[2:]).movedim(2, 0)


def _carry(last: Tensor, product: Tensor) -> Tensor:
    """State before each chunk, of the states at the ends of isolated chunks and the products of their decays."""
    state = torch.zeros_like(last[:, 0])
    before = []
    for end, decay in zip(last.unbind(1), product.unbind(1), strict=True):
        before.append(state)
        state = decay * state + end
    return torch.stack(before, dim=1)


def shifted_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Tensor | None
) -> Tensor:
    """As ``models.scan.operations.short_convolution``: a sum of shifted copies."""
    valid = None if lengths is None else valid_steps(x, lengths)
    length, last = x.shape[1], weight.shape[-1] - 1
    padded = functional.pad(x if valid is None else x * valid, (0, 0, 0, 0, last, last))
    groups = []
    for group, backward in enumerate(reverse):
        starts = [2 * last - tap if backward else tap for tap in range(last + 1)]
        shifted = [padded[:, start : start + length, group] * weight[group, :, tap] for tap, start in enumerate(starts)]
        groups.append(torch.stack(shifted).sum(dim=0))
    out = functional.silu(torch.stack(groups, dim=2) + bias)
    return out if valid is None else out * valid
