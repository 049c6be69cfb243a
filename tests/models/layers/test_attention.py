"""Attention between its projections, in the precisions that are asked of it."""

import pytest
import torch

from models.layers.attention import Mixing
from models.layers.padded_attention import RowKeys


@pytest.mark.parametrize("padded", [False, True])
def test_half_precision_on_a_cpu_computes_attention_in_float32(padded: bool) -> None:
    qkv = torch.randn(2, 24, 3, 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    keys = RowKeys.of(torch.arange(24) < torch.tensor([[24], [9]])) if padded else None
    mixing = Mixing()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mixing(qkv, keys)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, mixing(qkv.float(), keys).bfloat16())
