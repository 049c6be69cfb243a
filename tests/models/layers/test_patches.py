import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.layers.patches import grid_of, make_patches, repatch, unpatch, unpatch_marks

PATCH = (4, 4, 4)


def make_channels(count, shape, seed=0):
    draw = np.random.default_rng(seed).standard_normal((2, count, *shape))
    return (draw[0] + 1j * draw[1]).astype(np.complex64)


def test_blocks_and_places_are_in_c_order_with_the_antenna_fastest():
    channels = make_channels(2, (8, 12, 8))
    tokens = make_patches(channels, PATCH)
    assert tokens.grid == (2, 3, 2)
    assert tokens.elements is None
    token = 0
    for t in range(2):
        for k in range(3):
            for a in range(2):
                block = channels[:, 4 * t : 4 * t + 4, 4 * k : 4 * k + 4, 4 * a : 4 * a + 4].reshape(2, 64)
                np.testing.assert_array_equal(tokens.values[:, token, :64], block.real)
                np.testing.assert_array_equal(tokens.values[:, token, 64:], block.imag)
                token += 1
    assert tokens.values.shape == (2, token, 128)
    assert tokens.values.dtype == np.float32


@pytest.mark.parametrize("shape", [(8, 12, 8), (7, 12, 8), (5, 9, 3), (1, 1, 1)])
def test_unpatch_is_the_inverse_and_filled_places_are_zero_and_marked(shape):
    channels = make_channels(3, shape)
    tokens = make_patches(channels, PATCH)
    values = torch.from_numpy(tokens.values)
    back = unpatch(values, tokens.grid, PATCH)
    np.testing.assert_array_equal(back[:, : shape[0], : shape[1], : shape[2]].numpy(), channels)
    assert torch.equal(repatch(back, PATCH), values)
    if tokens.elements is None:
        assert all(size % 4 == 0 for size in shape)
        return
    assert tokens.elements.shape == tokens.values.shape[1:]
    assert tokens.elements.sum() == 2 * np.prod(shape)
    assert not tokens.values[:, ~tokens.elements].any()
    real = unpatch_marks(torch.from_numpy(tokens.elements[None, :, :64]), tokens.grid, PATCH)[0]
    assert real[: shape[0], : shape[1], : shape[2]].all()


def test_lengths_of_published_scales():
    scales = {(24, 128, 4): 192, (24, 64, 4): 96, (16, 32, 32): 256, (24, 128, 16): 768, (24, 32, 8): 96}
    for shape, length in scales.items():
        assert np.prod(grid_of(shape, PATCH)) == length


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4, 0), (4, 4)])
def test_a_scale_without_patches_is_refused(shape):
    with pytest.raises(UserError, match="scale"):
        grid_of(shape, PATCH)


def test_channels_without_a_sample_axis_are_refused():
    with pytest.raises(UserError, match="3 axes"):
        make_patches(make_channels(1, (4, 4, 4))[0], PATCH)
