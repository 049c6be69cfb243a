"""Vector Prony against plain implementations in numpy, the published computation, and real channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.predictors.prony import PRONY_RIDGE, pad_order, predict_pad, predict_prony, prony_order
from tests.conftest import REAL_DATA
from tests.models.batches import make_channels
from tests.models.oracles import largest_gap, read_oracle

ZERO_SHOT = REAL_DATA / "quadriga" / "zeroshot"
PRONY_DB = np.array((-20.0, -16.6, -11.3, -7.5, -12.1, -3.5, -10.4, -5.5, -7.1, -7.6, -2.6, -7.8))
"""Another regularised Prony predictor on D1 to D12, on other samples, against the clean future."""


def fourier(size: int) -> NDArray[np.complex128]:
    return np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size) / np.sqrt(size)


def pad_by_the_book(history: NDArray[np.complex128], steps: int, order: int) -> NDArray[np.complex128]:
    """PAD of one sample [h, K, A]: into the angle-delay domain, least squares there, recursion, and back."""
    slots, subcarriers, antennas = history.shape
    projection = np.kron(fourier(subcarriers), fourier(antennas))
    known = [projection.conj().T @ slot.ravel() for slot in history[slots - order - 1 :]]
    coefficients, *_ = np.linalg.lstsq(np.stack(known[:-1], axis=1), known[-1], rcond=None)
    for _ in range(steps):
        known.append(np.stack(known[-order:], axis=1) @ coefficients)
    return np.stack([(projection @ later).reshape(subcarriers, antennas) for later in known[order + 1 :]])


def prony_by_the_book(history: NDArray[np.complex128], steps: int, order: int) -> NDArray[np.complex128]:
    """The regularised predictor of one sample, from stacked windows of the slots and of the reversed conjugate."""
    regressors, targets = [], []
    for series in (history, history[::-1].conj()):
        for first in range(len(series) - order):
            regressors.append(series[first : first + order].reshape(order, -1).T)
            targets.append(series[first + order].ravel())
    system, right = np.concatenate(regressors), np.concatenate(targets)
    load = PRONY_RIDGE * (np.abs(system) ** 2).sum() / order
    coefficients = np.linalg.solve(system.conj().T @ system + load * np.eye(order), system.conj().T @ right)
    known = list(history)
    for _ in range(steps):
        known.append(np.tensordot(coefficients, np.stack(known[-order:]), 1))
    return np.stack(known[len(history) :])


@pytest.mark.parametrize(("slots", "pad", "prony"), [(8, 4, 6), (12, 6, 9), (16, 8, 12), (2, 1, 1), (4, 2, 3)])
def test_orders(slots: int, pad: int, prony: int) -> None:
    assert (pad_order(slots), prony_order(slots)) == (pad, prony)


@pytest.mark.parametrize("slots", [2, 8, 12])
def test_predictions_are_those_of_plain_implementations(slots: int) -> None:
    channels = make_channels(3, (slots, 6, 4), seed=slots)
    for predict, plain, order in (
        (predict_pad, pad_by_the_book, pad_order(slots)),
        (predict_prony, prony_by_the_book, prony_order(slots)),
    ):
        expected = np.stack([plain(sample.astype(np.complex128), slots, order) for sample in channels])
        found = predict(torch.from_numpy(channels), slots).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_pad_computes_what_the_published_code_does() -> None:
    tensors = read_oracle("baselines").tensors
    channels, future = (torch.complex(tensors[f"pad/{name}_real"], tensors[f"pad/{name}_imag"])
                        for name in ("channels", "future"))  # fmt: skip
    predicted = predict_pad(channels[:, :8], 8)
    assert largest_gap(torch.view_as_real(predicted), torch.view_as_real(future)) < 1e-5
    truth = channels[:, 8:]
    error = float((predicted - truth).abs().square().sum() / truth.abs().square().sum())
    assert 10 * np.log10(error) == pytest.approx(-10.55, abs=0.01)


def test_a_sum_of_few_waves_is_continued_exactly() -> None:
    turns = np.exp(2j * np.pi * np.array([0.03, -0.11]))[:, None] ** np.arange(16)
    channels = np.einsum("npt,ntka->npka", turns.T[None], make_channels(1, (2, 5, 3), 0)).astype(np.complex128)
    predicted = predict_pad(torch.from_numpy(channels[:, :8]), 8)
    np.testing.assert_allclose(predicted.numpy(), channels[:, 8:], atol=1e-5)


def test_silent_slots_are_continued_by_silence() -> None:
    for predict in (predict_pad, predict_prony):
        assert torch.equal(predict(torch.zeros(2, 8, 3, 2, dtype=torch.complex64), 4), torch.zeros(2, 4, 3, 2))


@pytest.mark.skipif(not ZERO_SHOT.is_dir(), reason="the QuaDRiGa zero-shot sets are not beside the repository")
def test_prony_is_as_good_on_real_channels_as_the_known_figures() -> None:
    found = [_prony_error(ZERO_SHOT / f"D{number}" / "test_data.mat", number) for number in range(1, 13)]
    deviations = 10 * np.log10(found) - PRONY_DB
    assert deviations.max() < 0.1
    assert 10 * np.log10(np.mean(found)) < -7.25 - 0.5


def _prony_error(path: Path, seed: int) -> float:
    """Mean NMSE against the clean future of predictions from a history with noise at 20 dB."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path) as file:
        stored = file["H_test"][()]
    clean = (stored["real"] + 1j * stored["imag"]).transpose(3, 2, 1, 0)
    clean /= np.sqrt((np.abs(clean) ** 2).mean((1, 2, 3), keepdims=True))
    half = clean.shape[1] // 2
    noise = np.random.default_rng(seed).standard_normal((2, *clean[:, :half].shape)) * np.sqrt(0.005)
    history = torch.from_numpy((clean[:, :half] + noise[0] + 1j * noise[1]).astype(np.complex64))
    truth = clean[:, half:]
    predicted = predict_prony(history, half).numpy()
    errors = (np.abs(predicted - truth) ** 2).sum((1, 2, 3)) / (np.abs(truth) ** 2).sum((1, 2, 3))
    return float(errors.mean())
