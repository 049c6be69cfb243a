"""How well predicted antenna vectors point: squared generalised cosine similarity and spectral efficiency.

Of a slot and subcarrier whose antennas are all predicted, with true vector h and predicted one g, the similarity is
|h^H g|^2 / (|h|^2 |g|^2). A base station that precodes along g (maximum ratio) has log2(1 + snr |h^H g|^2 / |g|^2)
bit/s/Hz, with h relative to the mean power of the sample's channel: snr is that of one antenna. A predicted zero has no
direction: its similarity and rate are zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.elements import Elements


class Directions(NamedTuple):
    """Of each sample of which any vector is wholly predicted, float64 [n]. sgcs: mean similarity. se_share: rate with
    the predicted vectors as a share of that with the true ones, sums over slots and subcarriers."""

    sgcs: NDArray[np.float64]
    se_share: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Antenna vectors of a batch. real, imaginary: float32 [M, A]. power: float64 [M]."""

    real: Tensor
    imaginary: Tensor
    power: Tensor


@dataclass(frozen=True, slots=True)
class WholeVectors:
    """The (sample, slot, subcarrier) of a batch that are predicted at all antennas.

    sample: int64 [M], of each. real, imaginary: int64 [M, A], of its numbers among the batch's tokens [B, L, D],
    flattened. samples: B.
    """

    sample: Tensor
    real: Tensor
    imaginary: Tensor
    samples: int

    @classmethod
    def of(cls, elements: Elements, masked: Tensor) -> "WholeVectors":
        """masked: bool [B, L]."""
        samples, length = masked.shape
        whole = elements.masked(masked).all(dim=-1).flatten(1)
        sample, place = whole.nonzero().unbind(dim=1)
        first = (sample * length * elements.width)[:, None]
        real, imaginary = (elements.index[..., part].flatten(0, 1)[place] + first for part in (0, 1))
        return cls(sample, real, imaginary, samples)

    def of_tokens(self, tokens: Tensor) -> Vectors:
        """The vectors as tokens [B, L, D] have them."""
        flat = tokens.flatten()
        real, imaginary = flat[self.real], flat[self.imaginary]
        return Vectors(real, imaginary, (_dot(real, real) + _dot(imaginary, imaginary)))

    def compare(self, guess: Vectors, truth: Vectors, snr_db: float) -> Directions:
        """Scores of predicted vectors beside true ones."""
        real = _dot(truth.real, guess.real) + _dot(truth.imaginary, guess.imaginary)
        imaginary = _dot(truth.real, guess.imaginary) - _dot(truth.imaginary, guess.real)
        along = torch.where(guess.power == 0, 0.0, (real.square() + imaginary.square()) / guess.power)
        snr = 10 ** (snr_db / 10)
        similarity = torch.where(truth.power == 0, 0.0, along / truth.power)
        parts = [similarity, torch.log2(1 + snr * along), torch.log2(1 + snr * truth.power), (truth.power > 0).double()]
        sums = torch.zeros(self.samples, len(parts), dtype=torch.float64, device=self.sample.device)
        sums.index_add_(0, self.sample, torch.stack(parts, dim=1))
        similarities, rate, best, count = sums[sums[:, 3] > 0].cpu().numpy().T
        return Directions(similarities / count, rate / best)


def compare_all(
    whole: WholeVectors, guesses: Mapping[str, Tensor], targets: Mapping[str, Tensor], snr_db: float
) -> dict[tuple[str, str], Directions]:
    """By (predictor, target), of tokens [B, L, D] each; nothing where no vector is wholly predicted."""
    if not len(whole.sample):
        return {}
    truths = {name: whole.of_tokens(tokens) for name, tokens in targets.items()}
    found: dict[tuple[str, str], Directions] = {}
    for predictor, tokens in guesses.items():
        guess = whole.of_tokens(tokens)
        found |= {(predictor, target): whole.compare(guess, truth, snr_db) for target, truth in truths.items()}
    return found


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner products float64 [M] of [M, A]."""
    products: Tensor = torch.linalg.vecdot(first, second)
    return products.double()
