"""What a backend of the selective scan is, and the operands that each takes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.packing import Sequences

Extents = Tensor | Sequences | None
"""Where samples end: int64 [batch], valid tokens of a padded batch; or sequences that lie end to end in a batch of one;
None where all tokens are valid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanProblem:
    """Operands of ``models.scan.operations.selective_scan``, which gives their shapes.

    u, delta, z, B, C are of one floating type. A, D and delta_bias are float32, or float64 if the others are.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    delta_bias: Tensor | None
    softplus: bool
    reverse: tuple[bool, ...]
    lengths: Extents

    @property
    def steps(self) -> Tensor:
        """Step sizes [batch, L, groups, channels]: delta with its bias, through a softplus if ``softplus``."""
        steps = self.delta if self.delta_bias is None else self.delta + self.delta_bias
        return functional.softplus(steps) if self.softplus else steps


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run scans. note: one line for the log, what runs and why.

    convolution: of (x, weight, bias, reverse, lengths), as of ``short_convolution``. half: it takes series of bfloat16
    and float16 as they are and computes in float32; others are given float32. packs: it takes packed sequences.
    """

    name: str
    note: str
    scan: Callable[[ScanProblem], Tensor]
    convolution: Callable[[Tensor, Tensor, Tensor, tuple[bool, ...], Extents], Tensor]
    half: bool = False
    packs: bool = True


def unit_stride(series: Tensor) -> Tensor:
    """The series with neighbouring features beside each other, copied only where they are not."""
    return series if series.stride(-1) == 1 or series.shape[-1] == 1 else series.contiguous()


def valid_steps(series: Tensor, lengths: Tensor) -> Tensor:
    """Bool [batch, L, 1, 1] for a series [batch, L, G, P]."""
    index = torch.arange(series.shape[1], device=series.device)
    return (index < lengths[:, None])[:, :, None, None]


def align_time(series: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """The series [batch, L, G, ...] with the time of reversed groups reversed."""
    if not any(reverse):
        return series
    if all(reverse):
        return series.flip(1)
    parts = [part.flip(1) if backward else part for part, backward in zip(series.unbind(2), reverse, strict=True)]
    return torch.stack(parts, dim=2)
