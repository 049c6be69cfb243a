"""Beams: the label is what trying every beam gives, and no array has more beams than it resolves."""

import numpy as np
import pytest

from channels.errors import UserError
from orchestrator.downstream.codebook import best_beams, dft_codebook


@pytest.mark.parametrize(("rows", "cols", "beams"), [(1, 8, 8), (1, 8, 5), (4, 1, 4), (2, 4, 8)])
def test_the_best_beam_is_that_of_brute_force(rows: int, cols: int, beams: int) -> None:
    random = np.random.default_rng(0)
    channels = (random.normal(size=(20, 3, 4, rows * cols, 2)) @ [1, 1j]).astype(np.complex64) * 1e-6
    found = best_beams(channels, dft_codebook(rows, cols, beams, "x"))
    for sample, label in zip(channels, found, strict=True):
        powers = []
        for beam in range(beams):
            # Beams of a planar array: (beam // rows, beam % rows) along columns and rows.
            along = (beam, 0) if rows == 1 else ((0, beam) if cols == 1 else divmod(beam, rows))
            steps = (beams if rows == 1 else cols, beams if cols == 1 else rows)
            power = 0.0
            for slot in sample:
                for subcarrier in slot:
                    received = sum(
                        subcarrier[col * rows + row]
                        * np.exp(-2j * np.pi * (along[0] * col / steps[0] + along[1] * row / steps[1]))
                        for col in range(cols)
                        for row in range(rows)
                    )
                    power += abs(received) ** 2
            powers.append(power)
        assert label == int(np.argmax(powers))


def test_a_plane_wave_is_seen_by_its_beam() -> None:
    book = dft_codebook(1, 16, 16, "x")
    assert np.allclose(np.abs(book @ book.conj().T), np.eye(16), atol=1e-6)
    wave = np.exp(2j * np.pi * 3 / 16 * np.arange(16)).astype(np.complex64)
    assert best_beams(np.tile(wave, (1, 1, 4, 1)), book).tolist() == [3]


def test_more_beams_than_antennas_are_refused() -> None:
    with pytest.raises(UserError, match="task beam: 64 beams are more than 32 antennas resolve; set codebook"):
        dft_codebook(1, 32, 64, "task beam")
    with pytest.raises(UserError, match="a planar array of 2 x 4 has 8 beams, not 4"):
        dft_codebook(2, 4, 4, "task beam")
