"""Normalisation, augmentation and noise of ``channels`` on any device: the same numbers from the same keys.

Every draw is integer arithmetic, and the logarithm, cosine and sine are looked up in tables that the host computes, so
the normal numbers are those of the host to the last bit. What differs is the order in which a sample's power is summed:
in float64, of which float32 keeps the leading bits, so a scale or deviation is the host's too but for about one sample
in ten million, where it is off by one unit in the last place of a float32 (2^-23).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from channels.signal import normal_tables
from models.layers.hashing import GOLDEN, mix, shift_right


@dataclass(frozen=True, slots=True)
class NormalTables:
    """``channels.signal.normal_tables`` on a device, where they take 192 MiB."""

    radius: Tensor
    turn: Tensor

    @classmethod
    def on(cls, device: torch.device | str) -> "NormalTables":
        """Computed on the host."""
        radius, turn = (torch.from_numpy(table).to(device) for table in normal_tables())
        return cls(radius, turn)


@dataclass(frozen=True, slots=True)
class Runs:
    """Samples laid end to end, on the host: how many there are of each size, in order, as (samples, elements)."""

    runs: tuple[tuple[int, int], ...]

    @property
    def elements(self) -> int:
        """Of all samples."""
        return sum(samples * elements for samples, elements in self.runs)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows [elements, ...] as one [samples, elements, ...] a run."""
        pieces = torch.split(rows, [samples * elements for samples, elements in self.runs])
        return [piece.view(*run, *rows.shape[1:]) for piece, run in zip(pieces, self.runs, strict=True)]


def sample_power(parts: Tensor, runs: Runs) -> Tensor:
    """Mean |H|^2 of each sample, float64 [B], of real and imaginary parts float32 [elements, 2]."""
    return torch.cat([run.double().square().sum(dim=(1, 2)) / run.shape[1] for run in runs.split(parts)])


def unit_power(parts: Tensor, sample: Tensor, runs: Runs) -> Tensor:
    """Each sample divided by the root of its mean power; ``sample``: int64 [elements]. A power of zero is not found."""
    scale = (1.0 / sample_power(parts, runs).sqrt()).float()
    return parts * scale[sample][:, None]


def augment(
    parts: Tensor, arrays: Sequence[tuple[int, int, int, int, int]], turns: Tensor | None, flips: Tensor | None
) -> Tensor:
    """Parts [elements, 2] as ``channels.augment.augment`` has them, to the last bit.

    arrays: (samples, slots, subcarriers, columns, rows) of consecutive samples. turns: float32 [B, 2], flips: bool
    [B, 3], as of ``AugmentationDraws``.
    """
    pieces, first = [], 0
    for shape, rows in zip(arrays, torch.split(parts, [math.prod(shape) for shape in arrays]), strict=True):
        samples, piece = slice(first, first + shape[0]), rows.view(*shape, 2)
        if flips is not None:
            piece = _flipped(piece, flips[samples])
        if turns is not None:
            piece = _turned(piece, turns[samples])
        pieces.append(piece.reshape(-1, 2))
        first = samples.stop
    return torch.cat(pieces)


def _flipped(piece: Tensor, flips: Tensor) -> Tensor:
    """Parts [n, T, K, C, R, 2] by flips bool [n, 3]."""
    conjugate, time, azimuth = (flip.view(-1, 1, 1, 1, 1, 1) for flip in flips.unbind(1))
    signs = 1 - 2 * conjugate.float()
    piece = torch.where(conjugate, piece.flip(1, 2, 3, 4), piece)
    piece = torch.where(time, piece.flip(1), piece)
    piece = torch.where(azimuth, piece.flip(3), piece)
    return torch.cat([piece[..., :1], piece[..., 1:] * signs], -1)


def _turned(piece: Tensor, turns: Tensor) -> Tensor:
    """Parts [n, T, K, C, R, 2] by turns float32 [n, 2]."""
    cosine, sine = (turn.view(-1, 1, 1, 1, 1) for turn in turns.unbind(1))
    real, imaginary = piece.unbind(-1)
    # Every product is rounded before the sum, as on the host.
    return torch.stack([real * cosine - imaginary * sine, imaginary * cosine + real * sine], -1)


def add_noise(
    parts: Tensor, sample: Tensor, index: Tensor, runs: Runs, snr_db: float, states: Tensor, tables: NormalTables
) -> Tensor:
    """Parts [elements, 2] as measured; states: int64 [B] of ``noise_states``, index: int64 [elements] in a sample."""
    deviation = (sample_power(parts, runs) * 10 ** (-snr_db / 10) / 2).sqrt().float()
    noise = normal_pairs(states[sample], index, tables)
    noise *= deviation[sample][:, None]
    noise += parts
    return noise


def normal_pairs(states: Tensor, index: Tensor, tables: NormalTables) -> Tensor:
    """Standard normal float32 [n, 2] of generators' states and the number of each draw from 0 on, int64 [n] each."""
    words = mix(states + (index + 1) * GOLDEN)
    radius = tables.radius.index_select(0, shift_right(words, 40))
    pairs = tables.turn.index_select(0, (words >> 8) & 0xFFFFFF)
    pairs *= radius[:, None]
    return pairs
