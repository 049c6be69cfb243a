"""Which tokens a masked model sees: random, temporal and frequency masks (HeterCSI, section on pre-training tasks).

Random masks are counter-based: a token's score is a hash of (seed, epoch, sample key, token index) in 64-bit integer
arithmetic that wraps around, so a sample's mask is the same in any batch, at any padding, on any rank and device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from channels.errors import UserError
from models.interface import MaskDraw, TokenBatch
from models.layers.hashing import GOLDEN, mix

TASKS = ("reconstruction", "time", "frequency")

_INT64_MAX = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRatios:
    """Masked share of the tokens (random), slot blocks (time) and subcarrier blocks (frequency), each in [0, 1)."""

    random: float = 0.85
    time: float = 0.5
    frequency: float = 0.5

    def __post_init__(self) -> None:
        """Raises UserError for a share outside [0, 1)."""
        for name in ("random", "time", "frequency"):
            ratio = getattr(self, name)
            if not 0 <= ratio < 1:
                raise UserError(f"{ratio!r} is not in [0, 1)", where=f"{name}_ratio", mend="give the masked share")


class View(NamedTuple):
    """What the encoder sees of a batch, and what the decoder is to predict.

    kept: int64 [B, n], indices of the kept tokens, left-aligned; behind them other indices.
    present: bool [B, n], False behind a sample's last kept token; None where all samples keep n.
    masked: bool [B, L], valid tokens not kept.
    """

    kept: Tensor
    present: Tensor | None
    masked: Tensor


def kept_blocks(grid: Tensor, ratios: MaskRatios) -> tuple[Tensor, Tensor, Tensor]:
    """Kept tokens (random), slot blocks (time) and subcarrier blocks (frequency), each int64 [...], of grids [..., 3].

    At least 1 of each. The products are taken in float32 as in the published code; the first two are rounded down, the
    last to the nearest (half to even).
    """
    tokens, slots, subcarriers = grid.prod(-1), grid[..., 0], grid[..., 1]
    random = (tokens.float() * (1 - ratios.random)).floor()
    time = (slots.float() * (1 - ratios.time)).floor()
    frequency = (subcarriers.float() * (1 - ratios.frequency)).round()
    return random.long().clamp(min=1), time.long().clamp(min=1), frequency.long().clamp(min=1)


def kept_tokens(grid: Tensor, ratios: MaskRatios) -> Tensor:
    """Tokens each of the three tasks keeps, int64 [..., 3], of grids [..., 3]."""
    random, time, frequency = kept_blocks(grid, ratios)
    slots, subcarriers, antennas = grid.unbind(-1)
    return torch.stack([random, time * subcarriers * antennas, slots * frequency * antennas], dim=-1)


def host_grids(batch: TokenBatch) -> list[tuple[int, int, int]]:
    """Distinct grids of a batch. Waits for the device only if the batch does not carry them."""
    if batch.grids is not None:
        return list(batch.grids)
    return [(slots, subcarriers, antennas) for slots, subcarriers, antennas in set(map(tuple, batch.grid.tolist()))]


def make_view(task: str, batch: TokenBatch, draw: MaskDraw, ratios: MaskRatios) -> View:
    """The mask of one of ``TASKS`` on a batch."""
    column = TASKS.index(task)
    counts = kept_tokens(torch.tensor(host_grids(batch)), ratios)[:, column].tolist()
    index = torch.arange(batch.tokens.shape[1], device=batch.grid.device)
    valid = index < batch.lengths[:, None]
    order = torch.where(valid, _scores(task, batch.grid, batch.keys, index, draw, ratios), _INT64_MAX).argsort(dim=1)
    kept = order[:, : max(counts)]
    present = index[: max(counts)] < kept_tokens(batch.grid, ratios)[:, column, None]
    is_kept = torch.zeros_like(valid).scatter(1, kept, present)
    return View(kept=kept, present=None if len(set(counts)) == 1 else present, masked=valid & ~is_kept)


def _scores(task: str, grid: Tensor, keys: Tensor, index: Tensor, draw: MaskDraw, ratios: MaskRatios) -> Tensor:
    """Int64 [B, L], different for every token of a sample; a task keeps the lowest."""
    if task == "reconstruction":
        return hash_tokens(keys, index, draw)
    if task == "time":
        return index.expand(len(grid), -1)
    assert task == "frequency", task
    _, _, first_subcarriers = kept_blocks(grid, ratios)
    subcarrier = index // grid[:, 2:] % grid[:, 1:2]
    return torch.where(subcarrier < first_subcarriers[:, None], index, index + len(index))


def hash_tokens(keys: Tensor, index: Tensor, draw: MaskDraw) -> Tensor:
    """Hashes int64 [B, L] of (seed, epoch, keys [B], token indices [L]), a bijection of the index: no two are equal."""
    return mix(_hash_samples(keys, draw)[:, None] + index * GOLDEN)


def hash_packed_tokens(keys: Tensor, sample: Tensor, index: Tensor, draw: MaskDraw) -> Tensor:
    """The same hashes for tokens given one by one: int64 [N] of keys [B], samples [N] and token indices [N]."""
    return mix(_hash_samples(keys, draw)[sample] + index * GOLDEN)


def _hash_samples(keys: Tensor, draw: MaskDraw) -> Tensor:
    origin = torch.tensor([draw.seed], dtype=torch.int64)
    origin = mix(mix(origin + GOLDEN) + draw.epoch)
    return mix(keys + int(origin))
