"""Packed batches give the predictions, losses and gradients of padded ones, whatever lies beside a sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.interface import MaskDraw, ModelSpec, PackedBatch, PretrainingModel, TokenBatch, collate
from models.layers.masking import TASKS
from models.layers.packed_attention import describe, grouped_attention, missing_kernel, packed_attention
from models.layers.packing import Sequences, members, pack
from models.registry import make_spec
from tests.models.batches import SCALES, make_channels

DRAW = MaskDraw(seed=3, epoch=1)
mixes = settings(max_examples=25)
scale = st.tuples(st.integers(1, 16), st.integers(1, 24), st.integers(1, 9))


@pytest.fixture(
    scope="module",
    params=[("hetercsi", "flat"), ("hetercsi", "grid"), ("hetercsi", "rotary"), ("wifo", "stf")],
    ids="-".join,
)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    name, position = request.param
    return make_spec(name, {"size": "tiny", "position": position})


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> PretrainingModel:
    return spec.build(seed=1)


def both(
    spec: ModelSpec, parts: list[tuple[tuple[int, int, int], int]], weight: list[float] | None = None
) -> tuple[TokenBatch, PackedBatch]:
    """The same samples padded and packed; parts: (scale, samples)."""
    tokens = [spec.tokenise(make_channels(count, shape, seed), 4) for seed, (shape, count) in enumerate(parts)]
    samples = sum(count for _, count in parts)
    keys = np.arange(100, 100 + samples)
    weights = np.asarray(weight or [1.0] * samples, np.float32)
    return collate(tokens, keys, weights, 4), pack(tokens, keys, weights, 4)


def losses_and_gradients(model: PretrainingModel, batch: TokenBatch | PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    sums = model(batch, DRAW)
    gradients = torch.autograd.grad(sums.sum(), list(model.parameters()), allow_unused=True)
    pairs = zip(gradients, model.parameters(), strict=True)
    return sums.detach(), torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def assert_equal_training(model: PretrainingModel, padded: TokenBatch, packed: PackedBatch) -> None:
    expected, gradient = losses_and_gradients(model, padded)
    sums, found = losses_and_gradients(model, packed)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    assert (found - gradient).norm() <= 2e-5 * gradient.norm() + 1e-6


@mixes
@given(st.lists(st.tuples(scale, st.integers(1, 3)), min_size=1, max_size=5), st.data())
def test_losses_and_gradients_are_those_of_the_padded_batch(
    spec: ModelSpec, model: PretrainingModel, parts: list[tuple[tuple[int, int, int], int]], data: st.DataObject
) -> None:
    samples = sum(count for _, count in parts)
    weight = data.draw(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=samples, max_size=samples))
    assert_equal_training(model, *both(spec, parts, weight))


@pytest.mark.parametrize(
    "parts",
    [
        [((16, 32, 8), 1)],
        [((4, 4, 4), 1)],
        [((4, 4, 4), 3), ((3, 2, 1), 1)],
        [(shape, 1) for shape in SCALES],
        [((16, 32, 8), 2), ((8, 16, 4), 1), ((32, 16, 8), 3), ((8, 64, 8), 1)],
    ],
    ids=["one sample", "one token", "nothing to mask", "all lengths differ", "grids of one length"],
)
def test_chosen_mixes(spec: ModelSpec, model: PretrainingModel, parts: list[tuple[tuple[int, int, int], int]]) -> None:
    assert_equal_training(model, *both(spec, parts))


def test_every_task_alone_and_with_fillers(spec: ModelSpec, model: PretrainingModel) -> None:
    padded, packed = both(spec, [(shape, 1) for shape in SCALES], [1, 0, 2, 0.5, 0, 1])
    torch.testing.assert_close(model(packed, DRAW), model(padded, DRAW), rtol=1e-5, atol=1e-5)
    nothing = replace(packed, weight=torch.zeros_like(packed.weight))
    sums, gradient = losses_and_gradients(model, nothing)
    assert not sums.any()
    assert not gradient.any()


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_is_the_same_alone_padded_and_packed(spec: ModelSpec, model: PretrainingModel, task: str) -> None:
    padded, packed = both(spec, [(shape, 1) for shape in SCALES])
    with torch.no_grad():
        rows, flat = model.predict(padded, task, seed=9), model.predict(packed, task, seed=9)
    ends = padded.lengths.cumsum(0).tolist()
    for row, (shape, end) in enumerate(zip(SCALES, ends, strict=True)):
        length = int(padded.lengths[row])
        mine = slice(end - length, end)
        masked = flat.masked[mine]
        assert torch.equal(masked, rows.masked[row, :length])
        torch.testing.assert_close(flat.values[mine][masked], rows.values[row, :length][masked], rtol=1e-4, atol=1e-5)
        assert not flat.values[mine][~masked].any()
        tokens = spec.tokenise(make_channels(1, shape, row), 4)
        alone = pack([tokens], np.asarray([100 + row]), np.ones(1, np.float32), 4)
        with torch.no_grad():
            single = model.predict(alone, task, seed=9)
        torch.testing.assert_close(single.values, flat.values[mine], rtol=1e-4, atol=1e-5)


def test_bfloat16_sums_in_float32(spec: ModelSpec) -> None:
    model = spec.build(seed=1)
    padded, packed = both(spec, [(shape, 1) for shape in SCALES])
    exact = model(padded, DRAW)
    rough = model.to(torch.bfloat16)(packed, DRAW)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.0)


def test_packing_lays_samples_end_to_end(spec: ModelSpec) -> None:
    padded, packed = both(spec, [((16, 32, 8), 2), ((7, 9, 5), 1), ((8, 16, 4), 2)], [1, 2, 3, 4, 5])
    valid = torch.arange(padded.tokens.shape[1]) < padded.lengths[:, None]
    assert torch.equal(packed.tokens, padded.tokens[valid])
    assert padded.elements is not None
    assert packed.elements is not None
    assert torch.equal(packed.elements, padded.elements[valid])
    assert packed.grids == (((4, 8, 2), 2), ((2, 3, 2), 1), ((2, 4, 1), 2))
    assert torch.equal(packed.grid, padded.grid)
    assert packed.weight.tolist() == [1, 2, 3, 4, 5]
    moved = packed.to("meta")
    assert {tensor.device.type for tensor in (moved.tokens, moved.elements, moved.keys, moved.weight)} == {"meta"}
    assert (moved.grids, moved.variant) == (packed.grids, 4)


def test_members_of_groups_laid_end_to_end() -> None:
    group, place = members(torch.tensor([2, 0, 3]), 5)
    assert group.tolist() == [0, 0, 2, 2, 2]
    assert place.tolist() == [0, 1, 0, 1, 2]


def test_sequences_lie_by_length() -> None:
    sequences = Sequences.of(torch.tensor([3, 1, 3, 2]), {1: 1, 2: 1, 3: 2})
    assert sequences.runs == ((1, 1), (1, 2), (2, 3))
    assert (sequences.rows, sequences.longest) == (9, 3)
    assert sequences.offsets.tolist() == [0, 1, 3, 6, 9]
    assert sequences.first_rows().tolist() == [3, 0, 6, 1]
    owner, place = sequences.members()
    assert owner.tolist() == [1, 3, 3, 0, 0, 0, 2, 2, 2]
    assert place.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]


def test_packed_attention_is_block_diagonal() -> None:
    lengths = [5, 1, 5, 7, 2]
    sequences = Sequences.of(torch.tensor(lengths), {length: lengths.count(length) for length in lengths})
    qkv = torch.randn(20, 3, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = torch.repeat_interleave(sequences.offsets.diff().long())
    query, key, value = qkv.permute(1, 2, 0, 3).unbind(0)
    masked = functional.scaled_dot_product_attention(query, key, value, attn_mask=block[:, None] == block)
    torch.testing.assert_close(grouped_attention(qkv, sequences), masked.transpose(0, 1))
    torch.testing.assert_close(
        packed_attention(qkv.to(torch.bfloat16), sequences).double(), masked.transpose(0, 1), rtol=0.05, atol=0.05
    )


def test_the_choice_is_told(spec: ModelSpec) -> None:
    assert spec.notes("cpu", packed=False) == ()
    [note] = spec.notes("cpu", packed=True)
    assert note == describe("cpu")
    assert "a fused call a length" in note
    assert missing_kernel("cuda") is None
    assert "variable-length kernel in half precision" in describe("cuda")
