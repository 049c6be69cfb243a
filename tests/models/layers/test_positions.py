import numpy as np
import torch

from models.layers.positions import axis_widths, sine_cosine, token_positions


def test_sine_cosine_formula():
    table = sine_cosine(50, 64, torch.device("cpu"))
    frequency = 10000.0 ** (-np.arange(32) / 32)
    angle = np.arange(50)[:, None] * frequency
    np.testing.assert_allclose(table, np.concatenate([np.sin(angle), np.cos(angle)], 1), atol=1e-5)


def test_axis_widths_are_even_and_fill_the_width():
    assert axis_widths(512) == (170, 170, 172)
    for width in (64, 96, 128, 512, 768):
        shares = axis_widths(width)
        assert sum(shares) == width
        assert all(share % 2 == 0 for share in shares)


def test_flat_positions_are_those_of_the_index():
    index = torch.tensor([[3, 0], [5, 7]])
    grid = torch.tensor([[2, 2, 2], [8, 1, 1]])
    positions = token_positions("flat", index, grid, 8, 16)
    assert torch.equal(positions, sine_cosine(8, 16, index.device)[index])


def test_grid_positions_are_those_of_the_blocks_in_any_scale():
    grids = torch.tensor([[2, 3, 4], [4, 6, 1], [1, 1, 24]])
    index = torch.arange(24)[None]
    positions = token_positions("grid", index, grids, 24, 32)
    shares = axis_widths(32)
    tables = [sine_cosine(24, share, index.device) for share in shares]
    for row, grid in enumerate(grids.tolist()):
        for token in range(24):
            blocks = np.unravel_index(token, grid)
            expected = torch.cat([table[block] for table, block in zip(tables, blocks, strict=True)])
            assert torch.equal(positions[row, token], expected)


def test_every_token_has_its_own_position():
    grid = torch.tensor([[6, 32, 4]])
    for kind in ("flat", "grid"):
        positions = token_positions(kind, torch.arange(768)[None], grid, 768, 96)[0]
        distances = torch.cdist(positions, positions).fill_diagonal_(1)
        assert distances.min() > 1e-2
