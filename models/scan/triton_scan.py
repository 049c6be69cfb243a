"""The selective scan in Triton, as a differentiable function: both directions in one launch of each kernel.

Series are read and written as they lie, in their own type; states, sums and fixed operands are float32. The backward
pass keeps the operands and the state before each chunk.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.scan import scan_kernels
from models.scan.chunked import chunked_scan
from models.scan.problem import ScanProblem

LANES = 32
"""Threads of a warp; a program is one warp."""
CHANNELS = 16
"""Channels of a program: a lane has half the states of one."""
CHUNK = 16
"""Steps between the states that are kept."""
HELD = 32
"""States of a channel at neighbouring steps that the gradient holds in registers."""
ROWS = 16
"""Chunks whose states are loaded at a time to carry them."""


def triton_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, on a CUDA device; float64 goes to the chunked scan."""
    if problem.u.dtype == torch.float64:
        return chunked_scan(problem)
    series = (problem.u, problem.delta, problem.A, problem.B, problem.C, problem.D, problem.z, problem.delta_bias)
    # Triton launches on the current device, whatever the tensors' own.
    with torch.cuda.device_of(problem.u):  # type: ignore[no-untyped-call]
        output: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
            *series, problem.softplus, problem.reverse, problem.lengths
        )
    return output


class _Scan(torch.autograd.Function):
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
        reverse: tuple[bool, ...],
        lengths: Tensor | None,
    ) -> Tensor:
        u, delta, B, C, z = (
            unit_stride(u),
            unit_stride(delta),
            unit_stride(B),
            unit_stride(C),
            None if z is None else unit_stride(z),
        )
        A, D = A.contiguous(), D.contiguous()
        bias = None if bias is None else bias.contiguous()
        call = _Call(u, A, bias, softplus, reverse, lengths)
        starts, sizes = call.start_states(u, delta, A, B, bias, lengths)
        out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        series = [*view(u), *view(delta), *view(z), *view(B), *view(C)]
        scan_kernels.outputs[call.grid](
            *series, A, D, bias, lengths, starts, out, *call.numbers, **call.flags, GATED=z is not None,
            STARTED=starts is not None, num_warps=1,
        )  # fmt: skip
        context.save_for_backward(u, delta, A, B, C, D, z, bias, lengths, starts, sizes)
        context.settings = (softplus, reverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Any, ...]:
        u, delta, A, B, C, D, z, bias, lengths, starts, sizes = context.saved_tensors
        softplus, reverse = context.settings
        call = _Call(u, A, bias, softplus, reverse, lengths)
        d_out = unit_stride(gradients[0])
        carried = call.end_gradients(delta, z, C, d_out, A, bias, lengths, sizes)
        d_u, d_delta = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (u, delta))
        d_z = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
        float32 = {"dtype": torch.float32, "device": u.device}
        d_B, d_C = (torch.empty((call.grid[1], *B.shape), **float32) for _ in range(2))
        d_A = torch.empty(call.states_shape, **float32)
        d_D, d_bias = (torch.empty(call.sizes_shape, **float32) for _ in range(2))
        series = [*view(u), *view(delta), *view(z), *view(B), *view(C), *view(d_out)]
        sums = [d_u, d_delta, d_z, d_B, d_C, d_A, d_D, d_bias]
        scan_kernels.operand_gradients[call.grid](
            *series, A, D, bias, lengths, starts, carried, *sums, len(u), *call.numbers, **call.flags,
            GATED=z is not None, STARTED=starts is not None, num_warps=1,
        )  # fmt: skip
        d_B, d_C = (part.sum(dim=0).to(B.dtype) for part in (d_B, d_C))
        d_A, d_D = d_A.sum(dim=(0, 2)).transpose(1, 2), d_D.sum(dim=(0, 2))
        shift = None if bias is None else d_bias.sum(dim=(0, 2))
        return d_u, d_delta, d_A, d_B, d_C, d_D, d_z, shift, None, None, None


class _Call:
    """Dimensions of a call: grid, numbers and flags that its kernels share."""

    def __init__(
        self,
        u: Tensor,
        A: Tensor,
        bias: Tensor | None,
        softplus: bool,
        reverse: tuple[bool, ...],
        lengths: Tensor | None,
    ) -> None:
        batch, length, groups, channels = u.shape
        states = A.shape[2]
        rows = triton.next_power_of_2(states)
        block = min(CHANNELS, triton.next_power_of_2(channels))
        chunks = triton.cdiv(length, CHUNK)
        self.grid = (chunks, triton.cdiv(channels, block), batch * groups)
        self.numbers = (length, chunks, groups, channels, states, reverse_bits(reverse))
        sizes = {"CHUNK": CHUNK, "GROUP": max(1, min(CHUNK, HELD // rows)), "STATES": rows, "CHANNELS": block}
        self.flags = sizes | {"SOFTPLUS": softplus, "BIASED": bias is not None, "PADDED": lengths is not None}
        self.states_shape = (batch, groups, chunks, states, channels)
        self.sizes_shape = (batch, groups, chunks, channels)

    def start_states(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, bias: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """State before each chunk, and the sums of their step sizes; None for a single chunk, which starts at zero."""
        if self.grid[0] == 1:
            return None, None
        states, sizes = (u.new_empty(shape, dtype=torch.float32) for shape in (self.states_shape, self.sizes_shape))
        series = [*view(u), *view(delta), *view(B)]
        scan_kernels.end_states[self.grid](
            *series, A, bias, lengths, states, sizes, *self.numbers, **self.flags, num_warps=1
        )
        self._carry(states, sizes, A, backward=False)
        return states, sizes

    def end_gradients(
        self,
        delta: Tensor,
        z: Tensor | None,
        C: Tensor,
        d_out: Tensor,
        A: Tensor,
        bias: Tensor | None,
        lengths: Tensor | None,
        sizes: Tensor | None,
    ) -> Tensor | None:
        """Gradient of the state after each chunk by the outputs of later chunks; None for a single chunk."""
        if sizes is None:
            return None
        gradients = torch.empty(self.states_shape, dtype=torch.float32, device=d_out.device)
        series = [*view(delta), *view(z), *view(C), *view(d_out)]
        scan_kernels.start_gradients[self.grid](
            *series, A, bias, lengths, gradients, *self.numbers, **self.flags, GATED=z is not None, num_warps=1
        )
        self._carry(gradients, sizes, A, backward=True)
        return gradients

    def _carry(self, values: Tensor, sizes: Tensor, A: Tensor, backward: bool) -> None:
        _, groups, chunks, states, channels = self.states_shape
        grid = (triton.cdiv(states * channels, LANES), self.grid[2])
        scan_kernels.carry[grid](
            values, sizes, A, chunks, groups, channels, states,
            ROWS=ROWS, LANES=LANES, BACKWARD=backward, num_warps=1,
        )  # fmt: skip


def view(series: Tensor | None) -> tuple[Any, ...]:
    """What a kernel takes for a series [batch, L, groups, features]: the tensor and its first three strides."""
    return (None, 0, 0, 0) if series is None else (series, *series.stride()[:3])


def reverse_bits(reverse: tuple[bool, ...]) -> int:
    """Bit g is set for a reversed group g."""
    return sum(1 << group for group, backward in enumerate(reverse) if backward)


def unit_stride(series: Tensor) -> Tensor:
    """The series with neighbouring features beside each other."""
    return series if series.stride(-1) == 1 or series.shape[-1] == 1 else series.contiguous()
