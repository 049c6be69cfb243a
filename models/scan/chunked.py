"""The selective scan in plain PyTorch, for devices without a kernel and machines without a compiler.

The sequence is cut into chunks. All chunks are scanned side by side from a zero state, then the states at their ends
are carried from chunk to chunk: 32 + L / 32 steps in Python instead of L, memory linear in L.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.packing import Sequences, members
from models.scan.problem import Extents, ScanProblem, align_time, valid_steps

CHUNK = 32


def chunked_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, in the precision of its operands."""
    u, steps, lengths = problem.u, problem.steps, problem.lengths
    valid = valid_steps(u, lengths) if isinstance(lengths, Tensor) else None
    fresh = first_steps(lengths, problem.reverse) if isinstance(lengths, Sequences) else None
    if valid is not None:
        # A padded step without input leaves a zero state zero: the backward direction starts at the last valid token.
        u = u * valid
    series = [align_time(part, problem.reverse) for part in (steps, steps * u, problem.B, problem.C)]
    out = align_time(_scan_chunks(series, problem.A, fresh), problem.reverse) + u * problem.D
    if valid is not None:
        out = out * valid
    return out if problem.z is None else out * functional.silu(problem.z)


def first_steps(sequences: Sequences, reverse: tuple[bool, ...]) -> Tensor:
    """Bool [1, rows, G, 1], the first step of every sequence, in the order in which each group scans them."""
    offsets = sequences.offsets.long()
    first = torch.zeros(sequences.rows, dtype=torch.bool, device=offsets.device)
    begins = {False: offsets[:-1], True: sequences.rows - offsets[1:]}
    groups = [first.index_fill(0, begins[backward], True) for backward in reverse]
    return torch.stack(groups, dim=1)[None, :, :, None]


def _scan_chunks(series: list[Tensor], A: Tensor, fresh: Tensor | None) -> Tensor:
    """C h [batch, L, G, P] of step sizes, step sizes times u [batch, L, G, P], and B, C [batch, L, G, N].

    fresh: bool [batch, L, G, 1], steps that no earlier state reaches.
    """
    length = series[0].shape[1]
    steps, driven, B, C = (functional.pad(part, (0, 0, 0, 0, 0, -length % CHUNK)) for part in series)
    kept = torch.exp(steps[..., None] * A)
    if fresh is not None:
        kept = kept.masked_fill(functional.pad(fresh, (0, 0, 0, 0, 0, -length % CHUNK))[..., None], 0.0)
    # Not indexed: the gradient of an index is a whole tensor of zeros, that of unbind is one for all steps.
    decays = _cut(kept).unbind(0)
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


def shifted_convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Extents) -> Tensor:
    """As ``models.scan.operations.short_convolution``: a sum of shifted copies."""
    valid = valid_steps(x, lengths) if isinstance(lengths, Tensor) else None
    length, last = x.shape[1], weight.shape[-1] - 1
    padded = functional.pad(x if valid is None else x * valid, (0, 0, 0, 0, last, last))
    groups = []
    for group, backward in enumerate(reverse):
        starts = [2 * last - tap if backward else tap for tap in range(last + 1)]
        shifted = [padded[:, start : start + length, group] * weight[group, :, tap] for tap, start in enumerate(starts)]
        if isinstance(lengths, Sequences):
            scanned = _scanned_before(lengths, backward)
            shifted = [part * (scanned >= last - tap)[:, None] for tap, part in enumerate(shifted)]
        groups.append(torch.stack(shifted).sum(dim=0))
    out = functional.silu(torch.stack(groups, dim=2) + bias)
    return out if valid is None else out * valid


def _scanned_before(sequences: Sequences, backward: bool) -> Tensor:
    """Int64 [rows], steps of its own sequence that are scanned before each."""
    lengths = sequences.offsets.diff().long()
    sequence, index = members(lengths, sequences.rows)
    return lengths[sequence] - 1 - index if backward else index
