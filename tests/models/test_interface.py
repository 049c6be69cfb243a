import numpy as np
import torch

from models.interface import Tokens, collate


def make_tokens(count, length, grid, partial, start):
    values = np.arange(count * length * 2, dtype=np.float32).reshape(count, length, 2) + start
    elements = None
    if partial:
        elements = np.ones((length, 2), np.bool_)
        elements[-1] = False
    return Tokens(values=values, elements=elements, grid=grid)


def test_collate_pads_to_the_longest_and_marks_real_elements():
    parts = [make_tokens(2, 3, (1, 3, 1), False, 1), make_tokens(1, 4, (2, 2, 1), True, 50)]
    batch = collate(parts, np.array([5, 6, 7]), np.array([1, 0, 2]), 4)
    assert batch.tokens.shape == (3, 4, 2)
    np.testing.assert_array_equal(batch.tokens[:2, :3], parts[0].values)
    np.testing.assert_array_equal(batch.tokens[2], parts[1].values[0])
    assert not batch.tokens[:2, 3].any()
    assert batch.elements is not None
    assert batch.elements[:, :, 0].tolist() == [[True, True, True, False]] * 3
    assert batch.lengths.tolist() == [3, 3, 4]
    assert batch.grid.tolist() == [[1, 3, 1], [1, 3, 1], [2, 2, 1]]
    assert batch.grids == ((1, 3, 1), (2, 2, 1))
    assert (batch.keys.tolist(), batch.weight.tolist(), batch.variant) == ([5, 6, 7], [1, 0, 2], 4)
    assert (batch.keys.dtype, batch.weight.dtype) == (torch.int64, torch.float32)


def test_elements_are_left_out_where_no_patch_is_partial():
    batch = collate([make_tokens(2, 3, (1, 3, 1), False, 0)], np.arange(2), np.ones(2), 4)
    assert batch.elements is None


def test_moving_a_batch_keeps_everything():
    batch = collate([make_tokens(2, 3, (1, 3, 1), True, 0)], np.arange(2), np.ones(2), 4)
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.elements.device.type == moved.grid.device.type == "meta"
    assert (moved.variant, moved.grids) == (batch.variant, batch.grids)
