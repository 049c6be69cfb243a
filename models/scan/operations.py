"""The selective scan and its short convolution, whichever backend computes them."""

import torch
from torch import Tensor

from models.layers.packing import Sequences
from models.scan.backends import choose_backend
from models.scan.problem import Backend, Extents, ScanProblem


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
    lengths: Extents = None,
    backend: Backend | None = None,
) -> Tensor:
    """Selective scan of Mamba (Gu and Dao 2023, algorithm 2), all groups in one call.

    With d = softplus(delta + delta_bias): h_t = exp(d_t A) h_{t-1} + d_t B_t u_t; y_t = (C_t h_t + D u_t) silu(z_t).
    u, delta, z: [batch, L, groups, channels]. B, C: [batch, L, groups, states]. A: [groups, channels, states]. D,
    delta_bias: [groups, channels]. reverse: one flag a group, True to scan from the last token to the first. lengths:
    int64 [batch], valid tokens of a padded batch: no padding reaches a valid token, in either direction, and the output
    is zero in padding. Or packed sequences, series being [1, rows, ...]: each is scanned as if it were alone. Returns
    [batch, L, groups, channels] of u's type; computed in float32 (float64 if u is).
    """
    assert len(reverse) == u.shape[2], "one direction a group"
    assert u.shape == delta.shape, "one step size a channel"
    assert B.shape == C.shape == (*u.shape[:3], A.shape[-1]), "one B and C a group"
    backend = backend or choose_backend(u.device.type, "auto", isinstance(lengths, Sequences))
    series, fixed = _types(u, backend)
    # Autocast must not reach inside: a backend says itself what it computes in.
    with torch.autocast(u.device.type, enabled=False):
        problem = ScanProblem(
            u=u.to(series),
            delta=delta.to(series),
            A=A.to(fixed),
            B=B.to(series),
            C=C.to(series),
            D=D.to(fixed),
            z=None if z is None else z.to(series),
            delta_bias=None if delta_bias is None else delta_bias.to(fixed),
            softplus=softplus,
            reverse=reverse,
            lengths=lengths,
        )
        return backend.scan(problem).to(u.dtype)


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    reverse: tuple[bool, ...] = (False,),
    lengths: Extents = None,
    backend: Backend | None = None,
) -> Tensor:
    """SiLU of the depthwise causal convolution before the scan; in reversed groups it looks at later tokens.

    x: [batch, L, groups, channels]. weight: [groups, channels, taps], the last tap for the token itself. bias: [groups,
    channels]. lengths: as of ``selective_scan``. Returns the shape and type of x.
    """
    assert len(reverse) == x.shape[2], "one direction a group"
    backend = backend or choose_backend(x.device.type, "auto", isinstance(lengths, Sequences))
    series, fixed = _types(x, backend)
    with torch.autocast(x.device.type, enabled=False):
        return backend.convolution(x.to(series), weight.to(fixed), bias.to(fixed), reverse, lengths).to(x.dtype)


def _types(series: Tensor, backend: Backend) -> tuple[torch.dtype, torch.dtype]:
    """What the backend is given: series over time, and operands that are fixed over time."""
    compute = torch.float64 if series.dtype == torch.float64 else torch.float32
    return series.dtype if backend.half else compute, compute
