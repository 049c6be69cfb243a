"""The short convolution in Triton, as a differentiable function: both directions in one launch."""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.scan import convolution_kernels
from models.scan.chunked import shifted_convolution
from models.scan.triton_scan import reverse_bits, unit_stride, view

STEPS, CHANNELS = 64, 32
"""Of a program."""


def triton_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Tensor | None
) -> Tensor:
    """As ``models.scan.operations.short_convolution``; x of any floating type, weight and bias float32."""
    if x.dtype == torch.float64:
        return shifted_convolution(x, weight, bias, reverse, lengths)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        output: Tensor = _Convolution.apply(x, weight, bias, reverse, lengths)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Tensor | None
    ) -> Tensor:
        x, weight, bias = unit_stride(x), weight.contiguous(), bias.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grid, numbers, flags = _launch(x, weight, reverse, lengths)
        convolution_kernels.convolve[grid](*view(x), weight, bias, lengths, out, x.shape[1], *numbers, **flags)
        context.save_for_backward(x, weight, bias, lengths)
        context.reverse = reverse
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight, bias, lengths = context.saved_tensors
        d_out = unit_stride(gradients[0])
        grid, numbers, flags = _launch(x, weight, context.reverse, lengths)
        batch, length, groups, channels = x.shape
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        shape = (batch, groups, grid[0], channels)
        d_weight, d_bias = (torch.empty(size, device=x.device) for size in ((*shape, weight.shape[-1]), shape))
        convolution_kernels.convolution_gradients[grid](
            *view(x), weight, bias, lengths, *view(d_out), d_x, d_weight, d_bias, length, grid[0], *numbers, **flags
        )
        return d_x, d_weight.sum(dim=(0, 2)), d_bias.sum(dim=(0, 2)), None, None


def _launch(
    x: Tensor, weight: Tensor, reverse: tuple[bool, ...], lengths: Tensor | None
) -> tuple[tuple[int, int, int], tuple[int, int, int], dict[str, Any]]:
    """Grid, numbers and flags of both kernels."""
    batch, length, groups, channels = x.shape
    steps = min(STEPS, triton.next_power_of_2(length))
    block = min(CHANNELS, triton.next_power_of_2(channels))
    flags = {"TAPS": weight.shape[-1], "STEPS": steps, "CHANNELS": block, "PADDED": lengths is not None}
    grid = (triton.cdiv(length, steps), triton.cdiv(channels, block), batch * groups)
    return grid, (groups, channels, reverse_bits(reverse)), flags
