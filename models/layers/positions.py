"""Where tokens lie in their grids, and fixed sine-cosine positions of them.

``flat`` is HeterCSI's published one: one position, the index of the token in the flattened grid. Lengths beyond those
trained on have positions never seen. ``grid`` gives each of the axes (slot block, subcarrier block, antenna block) its
own share of the features, so that a new scale is a new combination of known positions. ``stf`` does so as WiFo's code
does: slot, antenna and subcarrier block, with shares rounded to the nearest. ``rotary`` adds nothing to the tokens:
see ``models.layers.rotary``.
"""

from typing import Literal

import torch
from torch import Tensor

Added = Literal["flat", "grid", "stf"]
Kind = Literal["flat", "grid", "stf", "rotary"]


def sine_cosine(count: int, width: int, device: torch.device) -> Tensor:
    """Float32 [count, width] of positions 0..count-1: sin(p w_i), then cos(p w_i), w_i = 10000^(-2i / width)."""
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = torch.arange(count, device=device, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def axis_widths(width: int) -> tuple[int, int, int]:
    """Features of the slot, subcarrier and antenna position (``grid``): even, two thirds of ``width`` and the rest."""
    third = 2 * (width // 6)
    return third, third, width - 2 * third


def stf_widths(width: int) -> tuple[int, int, int]:
    """Features of the slot, antenna and subcarrier position (``stf``): twice the even number nearest to a third, the
    rest; 22, 22, 20 of 64 and 170, 170, 172 of 512, as published."""
    third = 2 * round(width / 6)
    return third, third, width - 2 * third


def token_blocks(index: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slot, subcarrier and antenna block, int64 [B, n] each, of indices int64 [B or 1, n] in grids int64 [B, 3]."""
    subcarriers, antennas = grid[:, 1:2], grid[:, 2:]
    return index // (subcarriers * antennas), index // antennas % subcarriers, index % antennas


def token_positions(kind: Added, index: Tensor, grid: Tensor, longest: int, width: int) -> Tensor:
    """Float32 [B, n, width] of token indices int64 [B or 1, n], below ``longest``, in grids int64 [B, 3].

    [1, n, width] where all samples have the same: ``flat`` with indices [1, n].
    """
    if kind == "flat":
        return sine_cosine(longest, width, index.device)[index]
    slot, subcarrier, antenna = token_blocks(index, grid)
    if kind == "grid":
        shares, coordinates = axis_widths(width), (slot, subcarrier, antenna)
    else:
        shares, coordinates = stf_widths(width), (slot, antenna, subcarrier)
    tables = [sine_cosine(longest, share, index.device)[at] for share, at in zip(shares, coordinates, strict=True)]
    return torch.cat(tables, dim=-1)
