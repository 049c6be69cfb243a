"""Linear minimum-mean-square-error estimation with a covariance that is separable over slots, subcarriers and antennas.

Samples have unit power, so their covariance is taken as the Kronecker product of three whose diagonal is 1 on average,
each the mean over training samples and over the two other axes. One more sample with white channels is counted, so that
few samples do not promise a certainty that other samples do not keep. What is known carries white noise of known power.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.interface import Shape

LEAST_NOISE = 1e-6
"""Taken for noise-free channels, so that a covariance of low rank can be inverted."""
_SYSTEMS = 32
"""Equation systems solved at once where every sample knows other places: they hold a square of the known places."""


@dataclass(frozen=True, slots=True)
class Covariance:
    """Of the channels of one set. slots, subcarriers, antennas: complex128 [T, T], [K, K], [A, A]. noise: power of the
    noise in what is known, relative to the channel's. samples: that it was estimated from."""

    slots: Tensor
    subcarriers: Tensor
    antennas: Tensor
    noise: float
    samples: int


class CovarianceSum:
    """Adds up the covariance of a set batch by batch."""

    def __init__(self, shape: Shape, device: torch.device | str = "cpu") -> None:
        self._sums = [torch.zeros(size, size, dtype=torch.complex128, device=device) for size in shape]
        self._samples = 0

    def add(self, channels: Tensor) -> None:
        """Count unit-power samples without noise, complex [n, T, K, A]."""
        for axis, total in enumerate(self._sums, start=1):
            along = channels.movedim(axis, 0).flatten(1).to(torch.complex128)
            total += along @ along.mH / along.shape[1] * len(channels)
        self._samples += len(channels)

    def result(self, noise: float) -> Covariance:
        """The mean over the samples and a white one; noise: relative power."""
        slots, subcarriers, antennas = ((total + _identity(total)) / (self._samples + 1) for total in self._sums)
        return Covariance(slots, subcarriers, antennas, max(noise, LEAST_NOISE), self._samples)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def estimate(channels: Tensor, known: Tensor, covariance: Covariance) -> Tensor:
    """Complex64 [n, T, K, A] estimated from the places of channels, of the same form, that are known, bool.

    Where whole slots, or whole subcarriers, are known of all samples the estimate uses the whole covariance. Otherwise
    it is made for each antenna on its own, from that of slots and subcarriers.
    """
    for axis in (1, 2):
        along = known.movedim(axis, 0).flatten(1)
        if torch.equal(along.all(dim=1), along.any(dim=1)):
            return _from_whole(channels, along[:, 0], axis, covariance)
    return _by_antenna(channels, known, covariance)


def _from_whole(channels: Tensor, known: Tensor, axis: int, covariance: Covariance) -> Tensor:
    """From all of the ``known`` positions, bool, of one axis.

    In the eigenvectors of all covariances the components are uncorrelated: each is a scalar estimate.
    """
    parts = {1: covariance.slots, 2: covariance.subcarriers, 3: covariance.antennas}
    own = parts.pop(axis)
    values, vectors = torch.linalg.eigh(own[known][:, known])
    (second, second_axes), (third, third_axes) = (torch.linalg.eigh(part) for part in parts.values())
    observed = channels.movedim(axis, 1)[:, known].to(torch.complex128)
    components = torch.einsum("nokl,oi,kj,lm->nijm", observed, vectors.conj(), second_axes.conj(), third_axes.conj())
    others = second.clamp(min=0)[:, None] * third.clamp(min=0)
    gains = others / (values.clamp(min=0)[:, None, None] * others + covariance.noise)
    onto = own[:, known] @ vectors
    estimated = torch.einsum("nijm,pi,kj,lm->npkl", components * gains, onto, second_axes, third_axes)
    return estimated.movedim(1, axis).to(torch.complex64)


def _by_antenna(channels: Tensor, known: Tensor, covariance: Covariance) -> Tensor:
    estimated = torch.zeros_like(channels, dtype=torch.complex64)
    antennas = known.shape[3]
    changes = (known[..., 1:] != known[..., :-1]).flatten(0, 2).any(dim=0).nonzero().flatten() + 1
    edges = [0, *changes.tolist(), antennas]
    for first, end in pairwise(edges):
        for at in range(0, len(known), _SYSTEMS):
            rows = slice(at, at + _SYSTEMS)
            observed, places = channels[rows, ..., first:end], known[rows, ..., first]
            estimated[rows, ..., first:end] = _solve(observed, places, covariance)
    return estimated


def _solve(channels: Tensor, known: Tensor, covariance: Covariance) -> Tensor:
    """Of channels [n, T, K, a] that know the same places [n, T, K] at every antenna."""
    subcarriers = known.shape[2]
    counts = known.flatten(1).sum(dim=1)
    most = int(counts.max())
    # Known places first, in any order; samples that know fewer are filled up with equations of no effect.
    places = known.flatten(1).int().argsort(dim=1, descending=True)[:, :most]
    present = torch.arange(most, device=known.device) < counts[:, None]
    slot, subcarrier = places // subcarriers, places % subcarriers
    system = covariance.slots[slot[:, :, None], slot[:, None]]
    system = system * covariance.subcarriers[subcarrier[:, :, None], subcarrier[:, None]]
    system = system * (present[:, :, None] & present[:, None])
    system.diagonal(dim1=1, dim2=2).add_(torch.where(present, covariance.noise, 1.0))
    index = places[..., None].expand(-1, -1, channels.shape[3])
    observed = channels.flatten(1, 2).to(torch.complex128).gather(1, index) * present[..., None]
    weights = torch.cholesky_solve(observed, torch.linalg.cholesky(system))
    spread = torch.zeros_like(channels, dtype=torch.complex128).flatten(1, 2).scatter(1, index, weights)
    spread = spread.view(channels.shape)
    return torch.einsum("ntka,st,lk->nsla", spread, covariance.slots, covariance.subcarriers).to(torch.complex64)
