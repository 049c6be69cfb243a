"""Attention between its projections, in the precisions that are asked of it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.layers import packed_attention, padded_attention
from models.layers.attention import Mixing
from models.layers.packing import Sequences
from models.layers.padded_attention import LEAST_LENGTH, RowKeys


@pytest.mark.parametrize("padded", [False, True])
def test_half_precision_on_a_cpu_computes_attention_in_float32(padded: bool) -> None:
    qkv = torch.randn(2, 24, 3, 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    keys = RowKeys.of(torch.arange(24) < torch.tensor([[24], [9]])) if padded else None
    mixing = Mixing()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mixing(qkv, keys)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, mixing(qkv.float(), keys).bfloat16())


def attend_one_by_one(qkv: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """What the variable-length kernel computes: [N, heads, width], each sequence cut out."""
    lengths = offsets.diff()
    assert offsets.dtype == torch.int32 and int(offsets[-1]) == len(qkv) and longest >= int(lengths.max())
    mixed = []
    for part in torch.split(qkv, lengths.tolist()):
        query, key, value = part.float().permute(1, 2, 0, 3)
        mixed.append(functional.scaled_dot_product_attention(query, key, value).transpose(0, 1))
    return torch.cat(mixed).to(qkv.dtype)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for a GPU's kernel, in both modules; the tokens of each call."""
    calls: list[int] = []

    def attend(qkv: Tensor, offsets: Tensor, longest: int) -> Tensor:
        calls.append(len(qkv))
        return attend_one_by_one(qkv, offsets, longest)

    for module in (padded_attention, packed_attention):
        monkeypatch.setattr(module, "missing_kernel", lambda device: None)
        monkeypatch.setattr(module, "variable_length_attention", attend)
    return calls


@pytest.mark.parametrize(("length", "by_kernel"), [(LEAST_LENGTH - 1, False), (LEAST_LENGTH, True)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_long_padded_rows_in_half_precision_go_through_the_kernel(
    kernel_calls: list[int], length: int, by_kernel: bool, kind: torch.dtype
) -> None:
    """With the same numbers as through the mask, also for rows that are full, empty or of one token."""
    counts = torch.tensor([length, 1, 0, length // 3])
    present = torch.arange(length) < counts[:, None]
    keys = RowKeys.of(present)
    assert (keys.offsets is not None) == by_kernel
    qkv = torch.randn(4, length, 3, 2, 8, generator=torch.Generator().manual_seed(0)).to(kind)
    mixed = padded_attention.padded_attention(qkv, keys)
    assert bool(kernel_calls) == (by_kernel and kind != torch.float32)
    assert mixed.shape == (4, length, 2, 8) and mixed.dtype == kind and mixed.isfinite().all()
    masked = padded_attention.padded_attention(qkv.float(), RowKeys(keys.mask, None))
    torch.testing.assert_close(mixed.float()[present], masked[present], atol=0.01, rtol=0.01)


def test_packed_sequences_in_half_precision_go_through_the_kernel(kernel_calls: list[int]) -> None:
    sequences = Sequences.of(torch.tensor([2, 5, 5]), {2: 1, 5: 2})
    qkv = torch.randn(12, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    grouped = packed_attention.packed_attention(qkv, sequences)
    assert not kernel_calls
    mixed = packed_attention.packed_attention(qkv.bfloat16(), sequences)
    assert kernel_calls == [12]
    torch.testing.assert_close(mixed.float(), grouped, atol=0.02, rtol=0.02)
