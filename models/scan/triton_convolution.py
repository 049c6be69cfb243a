"""The short convolution in Triton, as a differentiable function: both directions in one launch."""

from typing import Any

import torch
import triton
from torch import Tensor

from models.scan import convolution_kernels
from models.scan.chunked import shifted_convolution
from models.scan.problem import Extents, unit_stride
from models.scan.triton_scan import parted, reverse_bits, view

STEPS, GRADIENT_STEPS, CHANNELS = 32, 16, 32
"""Of a program, which has four warps; the gradient needs more registers for a step."""


def triton_convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Extents) -> Tensor:
    """As ``models.scan.operations.short_convolution``; x of any floating type, weight and bias float32."""
    if x.dtype == torch.float64:
        return shifted_convolution(x, weight, bias, reverse, lengths)
    out: Tensor = forward(x, weight, bias, *parted(lengths), reverse_bits(reverse))
    return out


@torch.library.custom_op("wavetrain::short_convolution", mutates_args=())
def forward(x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, longest: int, reverse: int) -> Tensor:
    """One opaque operation, as ``triton_scan.forward``, which has lengths, longest and reverse."""
    x, weight, bias = unit_stride(x), weight.contiguous(), bias.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, numbers, flags = _launch(x, weight, reverse, lengths, longest, STEPS)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        convolution_kernels.convolve[grid](*view(x), weight, bias, lengths, out, x.shape[1], *numbers, **flags)
    return out


@forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, longest: int, reverse: int) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("wavetrain::short_convolution_gradients", mutates_args=())
def gradients(
    d_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, longest: int, reverse: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, weight and bias."""
    d_out, x, weight, bias = unit_stride(d_out), unit_stride(x), weight.contiguous(), bias.contiguous()
    length, groups, channels = x.shape[1:]
    grid, numbers, flags = _launch(x, weight, reverse, lengths, longest, GRADIENT_STEPS)
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shape = (grid[2] // groups, groups, grid[0], channels)
    d_weight, d_bias = (torch.empty(size, device=x.device) for size in ((*shape, weight.shape[-1]), shape))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        convolution_kernels.convolution_gradients[grid](
            *view(x), weight, bias, lengths, *view(d_out), d_x, d_weight, d_bias, length, grid[0], *numbers, **flags
        )
    return d_x, d_weight.sum(dim=(0, 2)), d_bias.sum(dim=(0, 2))


@gradients.register_fake
def _(
    d_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor | None, longest: int, reverse: int
) -> tuple[Tensor, Tensor, Tensor]:
    d_x, d_weight, d_bias = (torch.empty(part.shape, dtype=part.dtype, device=x.device) for part in (x, weight, bias))
    return d_x, d_weight, d_bias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.longest, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward(context: Any, d_out: Tensor) -> tuple[Any, ...]:
    return *gradients(d_out, *context.saved_tensors, context.longest, context.reverse), None, None, None


forward.register_autograd(_backward, setup_context=_keep)


def _launch(
    x: Tensor, weight: Tensor, reverse: int, lengths: Tensor | None, longest: int, steps: int
) -> tuple[tuple[int, int, int], tuple[int, int, int], dict[str, Any]]:
    """Grid, numbers and flags of both kernels."""
    batch, length, groups, channels = x.shape
    if packed := longest > 0:
        assert lengths is not None, "the first rows of packed samples"
        batch, length = len(lengths) - 1, longest
    steps = min(steps, triton.next_power_of_2(length))
    block = min(CHANNELS, triton.next_power_of_2(channels))
    flags = {"TAPS": weight.shape[-1], "STEPS": steps, "CHANNELS": block}
    flags |= {"PADDED": lengths is not None and not packed, "PACKED": packed}
    grid = (triton.cdiv(length, steps), triton.cdiv(channels, block), batch * groups)
    return grid, (groups, channels, reverse), flags
