"""Predictions that need no training, beside which a model's error is read.

``zero`` says nothing: its error is the power of the target. ``repeat_last`` repeats, along the axis of the task, the
nearest known value before a position, else the nearest after it. ``linear`` interpolates between the nearest known
values on both sides and repeats the outermost known one beyond them (as numpy.interp does).

The axis is the slots for ``time``, the subcarriers for ``frequency``. For ``reconstruction`` it is the slots where
anything is known along them, then the subcarriers; for ``snapshot`` (patches of an antennas x subcarriers matrix) the
last axis, then the one before; what is left is zero. Filled elements of partial patches are unknown.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from models.interface import Shape, TokenBatch
from models.layers.masking import host_grids
from models.layers.patches import Grid, repatch, unpatch, unpatch_marks

Reference = Literal["zero", "repeat_last", "linear"]
REFERENCES: tuple[Reference, ...] = ("zero", "repeat_last", "linear")

Filler = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_SLOTS, _SUBCARRIERS = 1, 2
_AXES: Mapping[str, tuple[int, ...]] = {
    "reconstruction": (_SLOTS, _SUBCARRIERS),
    "time": (_SLOTS,),
    "frequency": (_SUBCARRIERS,),
    "snapshot": (3, 2),
}


def predict_reference(reference: Reference, task: str, batch: TokenBatch, masked: Tensor, patch: Shape) -> Tensor:
    """Tokens float32 [B, L, D] that a reference predicts from the tokens of 3-D patches not ``masked``, bool [B, L]."""
    predicted = torch.zeros_like(batch.tokens)
    if reference == "zero":
        return predicted
    fill: Filler = repeat_along if reference == "repeat_last" else interpolate_along
    for grid in host_grids(batch):
        rows = (batch.grid == batch.grid.new_tensor(grid)).all(dim=1).nonzero().flatten()
        length = grid[0] * grid[1] * grid[2]
        known = _known_elements(batch, masked, rows, grid, patch)
        channels = unpatch(batch.tokens[rows, :length], grid, patch)
        predicted[rows, :length] = repatch(_fill(channels, known, _AXES[task], fill), patch)
    return predicted


def _known_elements(batch: TokenBatch, masked: Tensor, rows: Tensor, grid: Grid, patch: Shape) -> Tensor:
    length, elements = grid[0] * grid[1] * grid[2], batch.tokens.shape[2] // 2
    known = ~masked[rows, :length, None].expand(-1, -1, elements)
    if batch.elements is not None:
        known = known & batch.elements[rows, :length, :elements]
    return unpatch_marks(known, grid, patch)


def _fill(channels: Tensor, known: Tensor, axes: tuple[int, ...], fill: Filler) -> Tensor:
    """Complex [n, T, K, A] with unknown elements filled along the first axis that knows any value there, else zero."""
    filled = torch.zeros_like(channels)
    done = torch.zeros_like(known)
    for axis in axes:
        values, found = (part.movedim(-1, axis) for part in fill(channels.movedim(axis, -1), known.movedim(axis, -1)))
        filled = torch.where(found & ~done, values, filled)
        done = done | found
    return filled


def repeat_along(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest known value at or before each position of the last axis, else after it; and whether there is any."""
    before, after = _neighbours(known)
    source = torch.where(before >= 0, before, after)
    found = source < known.shape[-1]
    return values.gather(-1, source.where(found, 0)), found


def interpolate_along(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Values on the line between the nearest known ones along the last axis; and whether there is any known."""
    size = known.shape[-1]
    before, after = _neighbours(known)
    right = torch.where(after < size, after, before)
    left = torch.where(before >= 0, before, after)
    found = (left >= 0) & (left < size)
    left, right = left.where(found, 0), right.where(found, 0)
    position = torch.arange(size, device=values.device)
    share = (position - left) / (right - left).clamp(min=1)
    start, end = values.gather(-1, left), values.gather(-1, right)
    return start + (end - start) * share, found


def _neighbours(known: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest known position at or before each (-1: none), and at or after each (the size: none)."""
    size = known.shape[-1]
    position = torch.arange(size, device=known.device)
    before = position.where(known, -1).cummax(dim=-1).values
    after = position.where(known, size).flip(-1).cummin(dim=-1).values.flip(-1)
    return before, after
