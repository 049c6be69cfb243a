from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.interface import MaskDraw, collate
from models.layers.masking import MaskRatios, make_view
from models.references import REFERENCES, interpolate_along, predict_reference, repeat_along
from models.registry import make_spec
from tests.models.batches import SCALES, make_batch, make_channels

PATCH = (4, 4, 4)
ZERO_SHOT = Path(__file__).parents[2].parent / "shared" / "data" / "quadriga" / "zeroshot"
REPEAT_LAST_DB = (-14.4, -8.8, -2.0, 3.2, 0.6, 2.9, 2.4, 3.0, 2.9, 1.7, 3.0, 3.0)


@pytest.fixture(scope="module")
def spec():
    return make_spec("hetercsi", {"size": "tiny"})


def batch_of(spec, channels):
    count = len(channels)
    return collate([spec.tokenise(channels, 4)], np.arange(count), np.ones(count, np.float32), 4)


def masked_of(batch, task):
    return make_view(task, batch, MaskDraw(seed=0, epoch=0), MaskRatios()).masked


def test_repeat_takes_the_nearest_earlier_else_the_first_later():
    values = torch.arange(6.0)[None]
    known = torch.tensor([[0, 1, 0, 0, 1, 0]], dtype=torch.bool)
    filled, found = repeat_along(values, known)
    assert filled.tolist() == [[1, 1, 1, 1, 4, 4]]
    assert found.all()
    assert not repeat_along(values, torch.zeros_like(known))[1].any()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([0, 1, 0, 0, 1, 0], [1, 1, 7, 13, 19, 19]),
        ([0, 0, 1, 0, 0, 0], [4] * 6),
        ([1, 0, 1, 1, 0, 0], [0, 2, 4, 9, 9, 9]),
        ([1, 1, 1, 1, 1, 1], [0, 1, 4, 9, 19, 25]),
    ],
)
def test_linear_interpolates_and_holds_the_ends(known, expected):
    values = torch.tensor([[0.0, 1, 4, 9, 19, 25]])
    filled, found = interpolate_along(values, torch.tensor([known], dtype=torch.bool))
    torch.testing.assert_close(filled, torch.tensor([expected], dtype=torch.float32))
    assert found.all()


def test_linear_beats_repeating_where_a_random_mask_leaves_neighbours(spec):
    slots = np.arange(16)[:, None, None] + 0 * np.arange(32)[None, :, None]
    start = make_channels(4, (1, 1, 8), 0)
    batch = batch_of(spec, (start * (1 + (0.1 - 0.05j) * slots)).astype(np.complex64))
    masked = masked_of(batch, "reconstruction")
    errors = {
        name: (predict_reference(name, "reconstruction", batch, masked, PATCH) - batch.tokens)[masked].square().mean()
        for name in REFERENCES
    }
    assert errors["linear"] < errors["repeat_last"] < errors["zero"]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("task", ["reconstruction", "time", "frequency"])
def test_references_see_known_tokens_only_and_each_sample_alone(spec, reference, task):
    batch = make_batch(spec)
    masked = masked_of(batch, task)
    predicted = predict_reference(reference, task, batch, masked, PATCH)
    spoiled = replace(batch, tokens=torch.where(masked[..., None] | ~batch.elements, 1e3, batch.tokens))
    assert torch.equal(predict_reference(reference, task, spoiled, masked, PATCH), predicted)
    for row, scale in enumerate(SCALES):
        alone = make_batch(spec, [scale], first_key=100 + row)
        length = alone.tokens.shape[1]
        one = predict_reference(reference, task, alone, masked[row : row + 1, :length], PATCH)
        torch.testing.assert_close(predicted[row, :length], one[0])
        known = ~masked[row, :length, None] & (batch.elements[row, :length])
        if reference != "zero":
            torch.testing.assert_close(predicted[row, :length][known], batch.tokens[row, :length][known])


def test_reconstruction_falls_back_to_frequency_where_a_line_of_slots_is_unknown(spec):
    channels = np.tile(make_channels(1, (8, 1, 4), 0), (1, 1, 8, 1))
    batch = batch_of(spec, channels)
    masked = torch.tensor([[False, True, True, True]])
    predicted = predict_reference("repeat_last", "reconstruction", batch, masked, PATCH)
    assert torch.equal(predicted[0, 1], predicted[0, 0])
    last = torch.from_numpy(channels[0, 3, 0])
    for token in (2, 3):
        blocks = torch.complex(*predicted[0, token].chunk(2)).view(4, 4, 4)
        if token == 2:
            assert torch.equal(blocks, last.expand(4, 4, 4))
        else:
            assert not blocks.any()


@pytest.mark.skipif(not ZERO_SHOT.is_dir(), reason="the QuaDRiGa zero-shot sets are not beside the repository")
def test_repeating_the_last_slot_of_real_channels(spec):
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    deviations = []
    for number, expected in enumerate(REPEAT_LAST_DB, start=1):
        with h5py.File(ZERO_SHOT / f"D{number}" / "test_data.mat") as file:
            stored = file["H_test"][()]
        clean = (stored["real"] + 1j * stored["imag"]).transpose(3, 2, 1, 0)
        clean /= np.sqrt((np.abs(clean) ** 2).mean((1, 2, 3), keepdims=True))
        noise = random.standard_normal((2, *clean.shape)) * np.sqrt(0.005)
        batch = batch_of(spec, (clean + noise[0] + 1j * noise[1]).astype(np.complex64))
        target = batch_of(spec, clean.astype(np.complex64)).tokens
        masked = masked_of(batch, "time")
        predicted = predict_reference("repeat_last", "time", batch, masked, PATCH)
        errors, powers = ((x.square() * masked[..., None]).sum((1, 2)) for x in (predicted - target, target))
        deviations.append(10 * np.log10(float((errors / powers).mean())) - expected)
    # The expected figures come from other samples of these sets: a mean over 32 leaves some tenths of a dB.
    assert np.abs(deviations).max() < 0.8
    assert np.abs(deviations).mean() < 0.3
