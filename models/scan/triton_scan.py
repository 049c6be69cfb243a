"""The selective scan in Triton, as a differentiable function: both directions in one launch of each kernel.

Series are read and written as they lie, in their own type; states, sums and fixed operands are float32. The backward
pass keeps the operands and the state before each chunk.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from models.layers.packing import Sequences
from models.scan import scan_kernels
from models.scan.chunked import chunked_scan
from models.scan.problem import Extents, ScanProblem, unit_stride

LANES = 32
"""Threads of a warp; a program is one warp."""
CHANNELS = 16
"""Channels of a program: a lane has half the states of one."""
CHUNK = 16
"""Steps between the states that are kept."""
GROUP, HELD = 4, 32
"""Steps unrolled at a time; fewer where their states of a channel, which the gradient holds in registers, are more."""
ROWS = 16
"""Chunks whose states are loaded at a time to carry them."""


def triton_scan(problem: ScanProblem) -> Tensor:
    """As ``models.scan.operations.selective_scan``, on a CUDA device; float64 goes to the chunked scan."""
    if problem.u.dtype == torch.float64:
        return chunked_scan(problem)
    out: Tensor = forward(
        problem.u, problem.delta, problem.A, problem.B, problem.C, problem.D, problem.z, problem.delta_bias,
        *parted(problem.lengths), problem.softplus, reverse_bits(problem.reverse),
    )[0]  # fmt: skip
    return out


@torch.library.custom_op("wavetrain::selective_scan", mutates_args=())
def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    lengths: Tensor | None,
    longest: int,
    softplus: bool,
    reverse: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, state before each chunk, sums of their step sizes); the last two empty for a single chunk.

    lengths, longest: as of ``parted``. reverse: bit g is set for a reversed group g. One opaque operation, so that
    torch.compile traces what is around it.
    """
    u, delta, B, C = unit_stride(u), unit_stride(delta), unit_stride(B), unit_stride(C)
    z = None if z is None else unit_stride(z)
    A, D = A.contiguous(), D.contiguous()
    bias = None if bias is None else bias.contiguous()
    call = _Call(u, A, bias is not None, softplus, reverse, lengths, longest)
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    states, sizes = call.new_states(u)
    # Triton launches on the current device, whatever the tensors' own.
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
        if call.chunked:
            call.start_states(u, delta, A, B, bias, lengths, states, sizes)
        series = [*view(u), *view(delta), *view(z), *view(B), *view(C)]
        scan_kernels.outputs[call.grid](
            *series, A, D, bias, lengths, states, out, *call.numbers, **call.flags, GATED=z is not None,
            STARTED=call.chunked, num_warps=1,
        )  # fmt: skip
    return out, states, sizes


@forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    lengths: Tensor | None,
    longest: int,
    softplus: bool,
    reverse: int,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _Call(u, A, bias is not None, softplus, reverse, lengths, longest)
    return torch.empty(u.shape, dtype=u.dtype, device=u.device), *call.new_states(u)


@torch.library.custom_op("wavetrain::selective_scan_gradients", mutates_args=())
def gradients(
    d_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    lengths: Tensor | None,
    longest: int,
    states: Tensor,
    sizes: Tensor,
    softplus: bool,
    reverse: int,
) -> list[Tensor]:
    """Of u, delta, A, B, C, D, z, bias; empty for what is None."""
    u, delta, B, C, d_out = (unit_stride(part) for part in (u, delta, B, C, d_out))
    z = None if z is None else unit_stride(z)
    A, D = A.contiguous(), D.contiguous()
    bias = None if bias is None else bias.contiguous()
    call = _Call(u, A, bias is not None, softplus, reverse, lengths, longest)
    d_u, d_delta, d_z = (_like(part, u) for part in (u, delta, z))
    parts = (call.grid[1], *B.shape)
    shapes = (parts, parts, call.states_shape, call.sizes_shape, call.sizes_shape)
    d_B, d_C, d_A, d_D, d_bias = (torch.empty(shape, dtype=torch.float32, device=u.device) for shape in shapes)
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
        carried = call.end_gradients(delta, z, C, d_out, A, bias, lengths, sizes) if call.chunked else None
        series = [*view(u), *view(delta), *view(z), *view(B), *view(C), *view(d_out)]
        results = [d_u, d_delta, d_z, d_B, d_C, d_A, d_D, d_bias]
        scan_kernels.operand_gradients[call.grid](
            *series, A, D, bias, lengths, states, carried, *results, len(u), *call.numbers, **call.flags,
            GATED=z is not None, STARTED=call.chunked, num_warps=1,
        )  # fmt: skip
    d_B, d_C = (part.sum(dim=0).to(B.dtype) for part in (d_B, d_C))
    d_A = d_A.sum(dim=(0, 2)).transpose(1, 2).contiguous()
    shift = d_bias.new_empty(0) if bias is None else d_bias.sum(dim=(0, 2))
    return [d_u, d_delta, d_A, d_B, d_C, d_D.sum(dim=(0, 2)), d_z, shift]


@gradients.register_fake
def _(
    d_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    lengths: Tensor | None,
    longest: int,
    states: Tensor,
    sizes: Tensor,
    softplus: bool,
    reverse: int,
) -> list[Tensor]:
    return [_like(part, u) for part in (u, delta, A, B, C, D, z, bias)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, longest, softplus, reverse = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.settings = (longest, softplus, reverse)


def _backward(context: Any, d_out: Tensor, d_states: Tensor, d_sizes: Tensor) -> tuple[Any, ...]:
    *tensors, states, sizes = context.saved_tensors
    longest, *settings = context.settings
    found = gradients(d_out, *tensors, longest, states, sizes, *settings)
    present = [part is not None for part in context.saved_tensors[:8]]
    wanted = [part if here else None for part, here in zip(found, present, strict=True)]
    return *wanted, None, None, None, None


forward.register_autograd(_backward, setup_context=_keep)


def _like(part: Tensor | None, series: Tensor) -> Tensor:
    """Contiguous and uninitialised, of the shape and type of the part; empty for None."""
    if part is None:
        return torch.empty(0, dtype=series.dtype, device=series.device)
    return torch.empty(part.shape, dtype=part.dtype, device=part.device)


class _Call:
    """Dimensions of a call: grid, numbers and flags that its kernels share."""

    def __init__(
        self,
        u: Tensor,
        A: Tensor,
        biased: bool,
        softplus: bool,
        reverse: int,
        lengths: Tensor | None,
        longest: int,
    ) -> None:
        batch, length, groups, channels = u.shape
        if packed := longest > 0:
            assert lengths is not None, "the first rows of packed samples"
            batch = len(lengths) - 1
        states = A.shape[2]
        rows = triton.next_power_of_2(states)
        block = min(CHANNELS, triton.next_power_of_2(channels))
        steps = longest if packed else length
        chunks = (steps + CHUNK - 1) // CHUNK
        self.chunked = steps > CHUNK
        self.grid = (chunks, triton.cdiv(channels, block), batch * groups)
        self.numbers = (length, chunks, groups, channels, states, reverse)
        sizes = {"CHUNK": CHUNK, "GROUP": max(1, min(GROUP, HELD // rows)), "STATES": rows, "CHANNELS": block}
        self.flags = sizes | {
            "SOFTPLUS": softplus,
            "BIASED": biased,
            "PADDED": lengths is not None and not packed,
            "PACKED": packed,
        }
        self.states_shape = (batch, groups, chunks, states, channels)
        self.sizes_shape = (batch, groups, chunks, channels)

    def new_states(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the state before each chunk and the sums of their step sizes; none for a single chunk."""
        shapes = (self.states_shape, self.sizes_shape) if self.chunked else ((0,), (0,))
        states, sizes = (torch.empty(shape, dtype=torch.float32, device=u.device) for shape in shapes)
        return states, sizes

    def start_states(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, bias: Tensor | None, lengths: Tensor | None,
        states: Tensor, sizes: Tensor,
    ) -> None:  # fmt: skip
        """Fill what ``new_states`` made."""
        series = [*view(u), *view(delta), *view(B)]
        scan_kernels.end_states[self.grid](
            *series, A, bias, lengths, states, sizes, *self.numbers, **self.flags, num_warps=1
        )
        self._carry(states, sizes, A, backward=False)

    def end_gradients(
        self, delta: Tensor, z: Tensor | None, C: Tensor, d_out: Tensor, A: Tensor, bias: Tensor | None,
        lengths: Tensor | None, sizes: Tensor,
    ) -> Tensor:  # fmt: skip
        """Gradient of the state after each chunk by the outputs of later chunks."""
        values = torch.empty(self.states_shape, dtype=torch.float32, device=d_out.device)
        series = [*view(delta), *view(z), *view(C), *view(d_out)]
        scan_kernels.start_gradients[self.grid](
            *series, A, bias, lengths, values, *self.numbers, **self.flags, GATED=z is not None, num_warps=1
        )
        self._carry(values, sizes, A, backward=True)
        return values

    def _carry(self, values: Tensor, sizes: Tensor, A: Tensor, backward: bool) -> None:
        _, groups, chunks, states, channels = self.states_shape
        grid = (triton.cdiv(states * channels, LANES), self.grid[2])
        scan_kernels.carry[grid](
            values, sizes, A, chunks, groups, channels, states,
            ROWS=ROWS, LANES=LANES, BACKWARD=backward, num_warps=1,
        )  # fmt: skip


def parted(lengths: Extents) -> tuple[Tensor | None, int]:
    """What kernels take for the ends of samples: lengths of padded ones and 0; or of packed ones the first rows and the
    end, and how long the longest is."""
    return (lengths.offsets, lengths.longest) if isinstance(lengths, Sequences) else (lengths, 0)


def view(series: Tensor | None) -> tuple[Any, ...]:
    """What a kernel takes for a series [batch, L, groups, features]: the tensor and its first three strides."""
    return (None, 0, 0, 0) if series is None else (series, *series.stride()[:3])


def reverse_bits(reverse: tuple[bool, ...]) -> int:
    """Bit g is set for a reversed group g."""
    return sum(1 << group for group, backward in enumerate(reverse) if backward)
