"""Patches of single snapshots."""

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.snapshot.patches import (
    corner,
    patch_matrices,
    patch_snapshots,
    snapshot_grid,
    snapshot_tokens,
    unpatch_matrices,
)
from tests.models.snapshots import random_channels

# Antennas, subcarriers: tokens with the class token for patches of 2, 4, 6 and 8 (PAPERS.md 3.3).
PUBLISHED_LENGTHS = {
    (8, 32): (65, 17, 13, 5),
    (16, 64): (257, 65, 34, 17),
    (32, 64): (513, 129, 67, 33),
    (64, 64): (1025, 257, 122, 65),
    (128, 64): (2049, 513, 243, 129),
}


@pytest.mark.parametrize(("scale", "lengths"), PUBLISHED_LENGTHS.items())
def test_token_counts_are_the_published_ones(scale: tuple[int, int], lengths: tuple[int, ...]) -> None:
    antennas, subcarriers = scale
    counts = tuple(1 + snapshot_tokens((1, subcarriers, antennas), side) for side in (2, 4, 6, 8))
    assert counts == lengths


def test_order_of_blocks_and_places() -> None:
    subcarriers, antennas = 6, 4
    index = np.arange(antennas * subcarriers).reshape(antennas, subcarriers)
    channels = (index + 1j * (100 + index)).T[None, None].astype(np.complex64)
    tokens = patch_snapshots(channels, 2)
    assert tokens.grid == (1, 3, 2)
    assert tokens.elements is None
    # The second block is the next one along the subcarriers, at antennas 0-1 and subcarriers 2-3.
    assert tokens.values[0, 1].tolist() == [2, 3, 8, 9, 102, 103, 108, 109]
    assert tokens.values[0, 3].tolist() == [12, 13, 18, 19, 112, 113, 118, 119]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6, 8, 40])
def test_partial_patches_are_filled_marked_and_cut_off_again(side: int) -> None:
    channels = random_channels(3, subcarriers=18, antennas=7)
    tokens = patch_snapshots(channels, side)
    whole = 18 % side == 0 and 7 % side == 0
    assert (tokens.elements is None) == whole
    if tokens.elements is not None:
        assert tokens.elements.sum() == 2 * 18 * 7
        assert not tokens.values[:, ~tokens.elements].any()
    back = unpatch_matrices(torch.from_numpy(tokens.values), (1, 18, 7), side)
    assert np.array_equal(back.numpy(), channels[:, 0])
    assert np.prod(tokens.grid) == tokens.values.shape[1] == snapshot_tokens((1, 18, 7), side)


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_tensors_are_patched_like_arrays(side: int) -> None:
    channels = random_channels(2, subcarriers=20, antennas=9)
    tokens = patch_matrices(torch.from_numpy(channels[:, 0]), side)
    assert np.array_equal(tokens.numpy(), patch_snapshots(channels, side).values)


def test_corner_keeps_the_meaning_of_places() -> None:
    """A 2 x 2 patch through the corner of a map over 4 x 4 patches is that patch filled up with zeros."""
    weight = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    small = random_channels(1, subcarriers=2, antennas=2)
    large = np.pad(small, ((0, 0), (0, 0), (0, 2), (0, 2)))
    through_corner = torch.from_numpy(patch_snapshots(small, 2).values) @ corner(weight, 4, 2)
    assert torch.allclose(through_corner, torch.from_numpy(patch_snapshots(large, 4).values) @ weight, atol=1e-6)


def test_grid_counts_one_snapshot_of_any_number_of_slots() -> None:
    assert snapshot_grid((24, 128, 4), 4) == (1, 32, 1)


@pytest.mark.parametrize("shape", [(0, 8, 8), (1, 0, 8), (1, 8, 0)])
def test_an_empty_axis_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="each of the axes"):
        snapshot_grid(shape, 4)
    with pytest.raises(UserError, match="each of the axes"):
        patch_snapshots(np.zeros((2, *shape), np.complex64), 4)


@pytest.mark.parametrize("value", [np.nan, 1j * np.nan, np.inf, -1j * np.inf])
def test_a_value_not_finite_is_refused(value: complex) -> None:
    channels = random_channels(3, 8, 8)
    channels[1, 0, 3, 4] = value
    with pytest.raises(UserError, match="channel 1 of the 3 to be patched holds NaN or infinity"):
        patch_snapshots(channels, 4)
