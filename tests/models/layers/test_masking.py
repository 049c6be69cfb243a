from dataclasses import replace

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.interface import MaskDraw
from models.layers.masking import TASKS, MaskRatios, hash_tokens, kept_tokens, make_view
from models.registry import make_spec
from tests.models.batches import SCALES, make_batch

RATIOS = MaskRatios()
DRAW = MaskDraw(seed=7, epoch=3)


@pytest.fixture(scope="module")
def spec():
    return make_spec("hetercsi", {"size": "tiny"})


def kept_of(view, batch):
    valid = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
    return valid & ~view.masked


def splitmix(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def test_hash_equals_splitmix64_in_exact_integers():
    keys, index = [0, 1, 2**62 + 5], [0, 1, 767]
    hashes = hash_tokens(torch.tensor(keys), torch.tensor(index), DRAW)
    golden = 0x9E3779B97F4A7C15
    for row, key in enumerate(keys):
        for column, token in enumerate(index):
            sample = splitmix((splitmix(splitmix((DRAW.seed + golden) % 2**64) + DRAW.epoch) + key) % 2**64)
            expected = splitmix((sample + token * golden) % 2**64)
            assert int(hashes[row, column]) % 2**64 == expected


def test_kept_counts_as_published():
    grids = torch.tensor([[6, 32, 1], [4, 16, 4], [6, 16, 4], [6, 32, 4]])
    assert kept_tokens(grids, RATIOS)[:, 0].tolist() == [28, 38, 57, 115]
    assert kept_tokens(grids, RATIOS)[:, 1:].tolist() == [[96, 96], [128, 128], [192, 192], [384, 384]]


@pytest.mark.parametrize(("blocks", "slots", "subcarriers"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (5, 2, 2), (7, 3, 4)])
def test_odd_block_counts_round_down_in_time_and_to_even_in_frequency(blocks, slots, subcarriers):
    kept = kept_tokens(torch.tensor([blocks, blocks, 1]), RATIOS)
    assert kept[1:].tolist() == [slots * blocks, blocks * subcarriers]


@pytest.mark.parametrize("length", range(1, 200))
def test_random_count_is_the_exact_floor_and_at_least_one(length):
    assert int(kept_tokens(torch.tensor([1, length, 1]), RATIOS)[0]) == max(1, length * 15 // 100)


@pytest.mark.parametrize("task", TASKS)
def test_a_view_names_the_kept_tokens_left_aligned(spec, task):
    batch = make_batch(spec)
    view = make_view(task, batch, DRAW, RATIOS)
    kept = kept_of(view, batch)
    assert kept.sum(1).tolist() == kept_tokens(batch.grid, RATIOS)[:, TASKS.index(task)].tolist()
    for row in range(len(batch.keys)):
        named = view.kept[row][view.present[row]].tolist()
        assert sorted(named) == kept[row].nonzero().flatten().tolist()
        assert len(set(view.kept[row].tolist())) == view.kept.shape[1]


def test_time_keeps_the_first_slots_and_frequency_the_lowest_subcarriers(spec):
    batch = make_batch(spec)
    time = kept_of(make_view("time", batch, DRAW, RATIOS), batch)
    frequency = kept_of(make_view("frequency", batch, DRAW, RATIOS), batch)
    for row, grid in enumerate(batch.grid.tolist()):
        length = np.prod(grid)
        slots, subcarriers, _ = np.unravel_index(np.arange(length), grid)
        np.testing.assert_array_equal(time[row, :length], slots < max(1, grid[0] // 2))
        np.testing.assert_array_equal(frequency[row, :length], subcarriers < max(1, round(grid[1] / 2)))


@pytest.mark.parametrize("task", TASKS)
def test_a_mask_depends_on_the_sample_alone(spec, task):
    batch = make_batch(spec)
    together = make_view(task, batch, DRAW, RATIOS).masked
    for row, scale in enumerate(SCALES):
        alone = make_view(task, make_batch(spec, [scale], first_key=100 + row), DRAW, RATIOS).masked[0]
        assert torch.equal(together[row, : len(alone)], alone)
        assert not together[row, len(alone) :].any()


def test_random_masks_change_with_epoch_seed_and_key_only(spec):
    batch = make_batch(spec, [(16, 32, 8)] * 4)
    first = make_view("reconstruction", batch, DRAW, RATIOS).masked
    assert torch.equal(first, make_view("reconstruction", batch, DRAW, RATIOS).masked)
    for draw in (MaskDraw(seed=7, epoch=4), MaskDraw(seed=8, epoch=3)):
        assert not (first == make_view("reconstruction", batch, draw, RATIOS).masked).all(dim=1).any()
    assert len({tuple(row.tolist()) for row in first}) == 4


def test_random_masks_keep_every_token_equally_often(spec):
    batch = make_batch(spec, [(8, 16, 8)])
    count = 20_000
    many = replace(
        batch,
        tokens=batch.tokens.expand(count, -1, -1),
        lengths=batch.lengths.expand(count),
        grid=batch.grid.expand(count, -1),
        keys=torch.arange(count),
        weight=batch.weight.expand(count),
    )
    kept = ~make_view("reconstruction", many, DRAW, RATIOS).masked
    share = 2 / 16
    deviation = (kept.float().mean(0) - share).abs().max() / np.sqrt(share * (1 - share) / count)
    assert deviation < 4.5
    pairs = (kept.float().T @ kept.float()) / count
    expected = share * 1 / 15
    deviation = (pairs - expected).fill_diagonal_(0).abs().max() / np.sqrt(expected * (1 - expected) / count)
    assert deviation < 5


def test_present_is_left_out_where_all_samples_keep_as_many(spec):
    same_length = make_batch(spec, [(16, 32, 8), (16, 64, 4)])
    assert all(make_view(task, same_length, DRAW, RATIOS).present is None for task in TASKS)
    assert all(make_view(task, make_batch(spec), DRAW, RATIOS).present is not None for task in TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_grids_read_from_the_device_give_the_same_view(spec, task):
    batch = make_batch(spec)
    known = make_view(task, batch, DRAW, RATIOS)
    read = make_view(task, replace(batch, grids=None), DRAW, RATIOS)
    assert all(torch.equal(one, other) for one, other in zip(known, read, strict=True))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(UserError, match="time_ratio"):
        MaskRatios(time=ratio)
