"""The compiled CUDA operations of mamba-ssm and causal-conv1d as differentiable functions.

Both want time innermost: every series is copied once, and that copy reverses the time of reversed groups. Neither knows
lengths, nor the ends of packed sequences. Series are float32, bfloat16 or float16, all of one type; what is fixed over
time is float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers.packing import Sequences
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.kernel_package import CONVOLUTION, SCAN, load, load_fault
from models.scan.problem import Extents, ScanProblem, valid_steps

TAPS = range(2, 5)
"""Taps that causal-conv1d is compiled for."""


def kernel_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, on a CUDA device: one kernel call for the channels of all groups.

    float64 goes to the chunked scan.
    """
    u, reverse = problem.u, problem.reverse
    if u.dtype == torch.float64:
        return chunked_scan(problem)
    valid = _valid(u, problem.lengths)
    if valid is not None:
        # A padded step without input leaves a zero state zero.
        u = u * valid
    u, delta, B, C = (time_innermost(part, reverse) for part in (u, problem.delta, problem.B, problem.C))
    z = None if problem.z is None else time_innermost(problem.z, reverse).flatten(1, 2)
    bias = None if problem.delta_bias is None else problem.delta_bias.flatten()
    channels = (u.flatten(1, 2), delta.flatten(1, 2))
    fixed = (problem.A.flatten(0, 1), B, C, problem.D.flatten())
    out: Tensor = _Scan.apply(*channels, *fixed, z, bias, problem.softplus)  # type: ignore[no-untyped-call]
    mixed = time_second(out.view(u.shape), reverse)
    return mixed if valid is None else mixed * valid


def _valid(series: Tensor, lengths: Extents) -> Tensor | None:
    assert not isinstance(lengths, Sequences), "packed sequences go to another backend"
    return None if lengths is None else valid_steps(series, lengths)


def kernel_convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Extents) -> Tensor:
    """As ``models.scan.operations.short_convolution``, on a CUDA device.

    In PyTorch where causal-conv1d does not load or has no kernel for so many taps.
    """
    if weight.shape[-1] not in TAPS or x.dtype == torch.float64 or load_fault(CONVOLUTION) is not None:
        compute = torch.promote_types(x.dtype, weight.dtype)
        return shifted_convolution(x.to(compute), weight, bias, reverse, lengths).to(x.dtype)
    valid = _valid(x, lengths)
    series = time_innermost(x if valid is None else x * valid, reverse)
    taps = (weight.flatten(0, 1).contiguous(), bias.flatten().contiguous())
    out: Tensor = _Convolution.apply(series.flatten(1, 2), *taps)  # type: ignore[no-untyped-call]
    filtered = time_second(out.view(series.shape), reverse)
    return filtered if valid is None else filtered * valid


class _Scan(torch.autograd.Function):
    """u, delta, z [batch, channels, L]; A [channels, N]; B, C [batch, groups, N, L]; D, bias [channels]."""

    @staticmethod
    def forward(
        context: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
    ) -> Tensor:
        out, states, *gated = load(SCAN).fwd(u, delta, A, B, C, D, z, bias, softplus)
        context.save_for_backward(u, delta, A, B, C, D, z, bias, states, None if z is None else out)
        context.softplus = softplus
        result: Tensor = out if z is None else gated[0]
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        u, delta, A, B, C, D, z, bias, states, out = context.saved_tensors
        d_u, d_delta, d_A, d_B, d_C, d_D, d_bias, *gated = load(SCAN).bwd(
            u, delta, A, B, C, D, z, bias, gradients[0].contiguous(), states, out, None, context.softplus, False
        )
        d_z = None if z is None else gated[0]
        return d_u, d_delta, d_A, d_B, d_C, d_D, d_z, None if bias is None else d_bias, None


class _Convolution(torch.autograd.Function):
    """x [batch, channels, L], weight [channels, taps], bias [channels]; with a SiLU."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(x)
        load(CONVOLUTION).causal_conv1d_fwd(x, weight, bias, None, None, out, None, True)
        context.save_for_backward(x, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight, bias = context.saved_tensors
        d_x = torch.empty_like(x)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        load(CONVOLUTION).causal_conv1d_bwd(
            x, weight, bias, gradients[0].contiguous(), None, None, None, d_x, d_weight, d_bias, None, True
        )
        return d_x, d_weight, d_bias


def time_innermost(series: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """[batch, groups, features, L], contiguous, of a series [batch, L, groups, features]."""
    groups = [part.flip(1) if backward else part for part, backward in zip(series.unbind(2), reverse, strict=True)]
    return torch.stack([group.transpose(1, 2) for group in groups], dim=1)


def time_second(series: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """The inverse of ``time_innermost``."""
    groups = [part.flip(2) if backward else part for part, backward in zip(series.unbind(1), reverse, strict=True)]
    return torch.stack([group.transpose(1, 2) for group in groups], dim=2)
