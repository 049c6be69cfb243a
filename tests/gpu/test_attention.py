"""Attention on the device: variable-length kernels against masks and against groups, and rows that keep nothing."""

import pytest
import torch
from torch import Tensor

from models.layers.packed_attention import grouped_attention, kernel_attention, missing_kernel
from models.layers.packing import Sequences
from models.layers.padded_attention import RowKeys, padded_attention, row_offsets, visible_keys

pytestmark = pytest.mark.gpu
HEADS, WIDTH = 4, 32


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def result_and_gradient(attend: object, qkv: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaf = qkv.detach().clone().requires_grad_()
    mixed = attend(leaf)  # type: ignore[operator]
    (mixed.float() * weight).sum().backward()
    assert leaf.grad is not None
    return mixed.detach(), leaf.grad


@pytest.mark.usefixtures("on_gpu")
def test_one_kernel_for_packed_sequences_equals_a_call_a_length() -> None:
    assert missing_kernel("cuda") is None
    lengths = torch.tensor([1, 700, 33, 64, 33, 1500], device="cuda")
    counts = {int(length): int((lengths == length).sum()) for length in lengths.unique()}
    sequences = Sequences.of(lengths, counts)
    torch.manual_seed(0)
    qkv = torch.randn(sequences.rows, 3, HEADS, WIDTH, device="cuda")
    weight = torch.randn(sequences.rows, HEADS, WIDTH, device="cuda")
    expected = result_and_gradient(lambda part: grouped_attention(part, sequences), qkv.double(), weight.double())
    found = result_and_gradient(lambda part: kernel_attention(part, sequences), qkv.bfloat16(), weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(ours, theirs) < 1e-2


def test_padded_rows_by_offsets_equal_the_mask(device: str) -> None:
    """Values and gradients of the tokens that count; on a CPU the rows are cut out one by one."""
    lengths = torch.tensor([40, 1, 0, 64], device=device)
    present = torch.arange(64, device=device) < lengths[:, None]
    torch.manual_seed(0)
    qkv = torch.randn(4, 64, 3, HEADS, WIDTH, device=device)
    weight = torch.randn(4, 64, HEADS, WIDTH, device=device) * present[..., None, None]
    keys = RowKeys(visible_keys(present), row_offsets(present))
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    found = result_and_gradient(lambda part: padded_attention(part, keys), qkv.to(kind), weight)
    for row, length in enumerate(lengths.tolist()):
        if length:
            alone = result_and_gradient(
                lambda part: padded_attention(part, None),
                qkv[row : row + 1, :length].double(),
                weight[row, :length].double(),
            )
            for ours, theirs in zip(found, alone, strict=True):
                assert relative(ours[row : row + 1, :length], theirs) < (1e-2 if device == "cuda" else 1e-5)


@pytest.mark.parametrize("by_offsets", [False, True])
def test_rows_without_a_key_stay_finite_in_bf16(device: str, by_offsets: bool) -> None:
    present = torch.zeros(3, 32, dtype=torch.bool, device=device)
    present[1, :5] = True
    qkv = torch.randn(3, 32, 3, HEADS, WIDTH, device=device, dtype=torch.bfloat16)
    keys = RowKeys(visible_keys(present), row_offsets(present) if by_offsets and device == "cuda" else None)
    weight = torch.ones(3, 32, HEADS, WIDTH, device=device)
    for tensor in result_and_gradient(lambda part: padded_attention(part, keys), qkv, weight):
        assert tensor.isfinite().all()
