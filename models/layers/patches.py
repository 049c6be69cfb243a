"""3-D patches of a space-time-frequency channel (HeterCSI, Eq. 1).

Blocks are ordered (slot block, subcarrier block, antenna block) with the antenna block fastest; inside a patch the
elements have the same order, and its complex values become their real parts followed by their imaginary parts. A scale
that is not a multiple of the patch is filled with zeros, and the filled elements are marked.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from channels.errors import UserError
from models.interface import Shape, Tokens

Grid = tuple[int, int, int]

_BLOCKED = "n (t pt) (k pk) (a pa)"
_PATCHED = "n (t k a) (pt pk pa)"


def grid_of(shape: Shape, patch: Shape) -> Grid:
    """Blocks along (slots, subcarriers, antennas). Raises UserError for a scale with an axis shorter than 1."""
    if len(shape) != 3 or min(shape) < 1:
        mend = "each of the axes (T, K, A) needs a length of at least 1"
        raise UserError(f"a channel of scale {tuple(shape)} has no patches", mend=mend)
    slots, subcarriers, antennas = (-(-size // width) for size, width in zip(shape, patch, strict=True))
    return slots, subcarriers, antennas


def make_patches(channels: NDArray[np.complex64], patch: Shape) -> Tokens:
    """Tokens [n, L, 2 * pt * pk * pa] of channels [n, T, K, A]; ``elements`` is None when no patch is partial."""
    if channels.ndim != 4:
        raise UserError(f"channels have {channels.ndim} axes", mend="expected 4: (samples, T, K, A)")
    shape = (channels.shape[1], channels.shape[2], channels.shape[3])
    grid = grid_of(shape, patch)
    elements = None
    if any(size % width for size, width in zip(shape, patch, strict=True)):
        real = _fill_up(np.ones((1, *shape), np.bool_), grid, patch)
        elements = np.tile(_split(real, patch)[0], (1, 2))
        channels = _fill_up(channels, grid, patch)
    blocks = _split(channels, patch)
    count = blocks.shape[-1]
    values = np.empty((*blocks.shape[:2], 2 * count), np.float32)
    values[..., :count] = blocks.real
    values[..., count:] = blocks.imag
    return Tokens(values=values, elements=elements, grid=grid)


def patch_tensor(channels: Tensor, patch: Shape) -> Tensor:
    """The values of ``make_patches`` on the channels' device: float32 [n, L, D] of complex64 [n, T, K, A]."""
    gaps = [-size % width for size, width in zip(channels.shape[1:], patch, strict=True)]
    if any(gaps):
        channels = functional.pad(channels, (0, gaps[2], 0, gaps[1], 0, gaps[0]))
    return repatch(channels, patch)


def unpatch(values: Tensor, grid: Grid, patch: Shape) -> Tensor:
    """Complex [n, T, K, A] of tokens [n, L, D], the filled elements of partial patches included."""
    real, imaginary = values.chunk(2, dim=-1)
    return _join(torch.complex(real, imaginary), grid, patch)


def repatch(channels: Tensor, patch: Shape) -> Tensor:
    """Inverse of ``unpatch``: tokens [n, L, D] of complex [n, T, K, A], axes multiples of the patch."""
    blocks = _split(channels, patch)
    return torch.cat([blocks.real, blocks.imag], dim=-1)


def unpatch_marks(marks: Tensor, grid: Grid, patch: Shape) -> Tensor:
    """Marks [n, T, K, A] of marks [n, L, D / 2], one for each complex element of a patch."""
    return _join(marks, grid, patch)


def _fill_up(channels: NDArray[Any], grid: Grid, patch: Shape) -> NDArray[Any]:
    sizes = channels.shape[1:]
    gaps = [(0, blocks * width - size) for blocks, width, size in zip(grid, patch, sizes, strict=True)]
    return np.pad(channels, [(0, 0), *gaps])


def _split(channels: Any, patch: Shape) -> Any:
    return rearrange(channels, f"{_BLOCKED} -> {_PATCHED}", pt=patch[0], pk=patch[1], pa=patch[2])


def _join(elements: Tensor, grid: Grid, patch: Shape) -> Tensor:
    sizes = {"t": grid[0], "k": grid[1], "a": grid[2], "pt": patch[0], "pk": patch[1], "pa": patch[2]}
    joined: Tensor = rearrange(elements, f"{_PATCHED} -> {_BLOCKED}", **sizes)
    return joined
