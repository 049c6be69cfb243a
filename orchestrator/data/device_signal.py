"""Normalisation and noise of ``channels.signal`` on any device: the same numbers from the same keys.

Every draw is integer arithmetic, and the logarithm, cosine and sine are looked up in tables that the host computes, so
the normal numbers are those of the host to the last bit. What differs is the order in which a sample's power is summed:
in float64, of which float32 keeps the leading bits, so a scale or deviation is the host's too but for about one sample
in ten million, where it is off by one unit in the last place of a float32 (2^-23).
"""

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
