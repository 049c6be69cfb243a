"""The selective scan and its short convolution, whichever backend computes them."""

import torch
from torch import Tensor

from models.scan.backends import Backend, choose_backend
from models.scan.problem import ScanProblem


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
