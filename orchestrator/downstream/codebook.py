"""Beams of a DFT codebook, and which of them is the best for a channel."""

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError


def dft_codebook(rows: int, cols: int, beams: int, where: str) -> NDArray[np.complex64]:
    """Unit-norm weights complex64 [beams, A] of an array, whose antenna ``col * rows + row`` is the one of (row, col).

    A linear array has beams at equal steps of the phase from antenna to antenna, 2 pi b / beams. A planar one has the
    product of both codebooks, one beam an antenna. where: of the error.

    Raises:
        UserError: more beams than the array resolves, or a number that a planar array cannot have.
    """
    antennas = rows * cols
    if beams > antennas:
        mend = f"set codebook to at most {antennas}, or to antennas"
        raise UserError(f"{beams} beams are more than {antennas} antennas resolve", where=where, mend=mend)
    if min(rows, cols) > 1 and beams != antennas:
        what = f"a planar array of {rows} x {cols} has {antennas} beams, not {beams}"
        raise UserError(what, where=where, mend="set codebook to antennas")
    if min(rows, cols) == 1:
        return _steering(antennas, beams)
    return np.kron(_steering(cols, cols), _steering(rows, rows)).astype(np.complex64)


def best_beams(channels: NDArray[np.complex64], codebook: NDArray[np.complex64]) -> NDArray[np.int64]:
    """The beam that receives most power over slots and subcarriers: int64 [n] of channels [n, T, K, A]."""
    received = channels @ codebook.conj().T
    power = (received.real.astype(np.float64) ** 2 + received.imag.astype(np.float64) ** 2).sum(axis=(1, 2))
    best: NDArray[np.int64] = power.argmax(axis=1).astype(np.int64)
    return best


def _steering(antennas: int, beams: int) -> NDArray[np.complex64]:
    phase = np.outer(np.arange(beams), np.arange(antennas)) / beams
    weights: NDArray[np.complex64] = (np.exp(2j * np.pi * phase) / np.sqrt(antennas)).astype(np.complex64)
    return weights
