"""Rotary positions: turned by hand, the same wherever in a grid tokens lie, frequencies that are learned."""

import math

import pytest
import torch
from torch import Tensor

from models.layers.attention import Attention
from models.layers.rotary import AXES, HIGHEST, LOWEST, Rotary, Rotation, first_frequencies, rotate, rotate_plainly

SIZES = [(4, 12), (4, 8), (12, 32), (16, 16), (8, 32)]
"""Heads and pairs of a head of all stacks of HeterCSI."""


def some_blocks(*shape: int, most: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(0, most, (*shape, AXES), generator=torch.Generator().manual_seed(seed))


def some_rotary(heads: int = 4, width: int = 24) -> Rotary:
    """As it may be after some training: every pair turns along all axes."""
    rotary = Rotary(heads, width)
    with torch.no_grad():
        rotary.frequencies.add_(torch.randn(len(rotary.frequencies), generator=torch.Generator().manual_seed(1)))
    return rotary


@pytest.mark.parametrize(("heads", "pairs"), SIZES)
def test_pairs_are_shared_out_to_the_axes(heads: int, pairs: int) -> None:
    frequencies = first_frequencies(heads, pairs)
    assert ((frequencies > 0).sum(dim=0) == 1).all()
    of_axes = (frequencies > 0).sum(dim=(1, 2))
    assert of_axes.max() - of_axes.min() <= 1
    in_heads = (frequencies > 0).sum(dim=2)
    assert in_heads.max() - in_heads.min() <= 1
    for axis in frequencies:
        series = axis[axis > 0].sort(descending=True).values
        torch.testing.assert_close(series[[0, -1]], torch.tensor([HIGHEST, LOWEST]))
        steps = series[1:] / series[:-1]
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-4, atol=0.0)
        assert all(head[head > 0].max() > 3 * head[head > 0].min() for head in axis)


def test_a_pair_is_turned_by_the_sum_of_its_angles() -> None:
    rotary = some_rotary(2, 6)
    blocks, qkv = some_blocks(5), torch.randn(5, 3, 2, 6)
    turned = rotate(qkv, Rotation.of(rotary(blocks), torch.float32))
    w = rotary.frequencies.detach().view(AXES, 2, 3).double()
    for token, head, pair in ((0, 0, 0), (3, 1, 2), (4, 0, 1)):
        angle = float((blocks[token] * w[:, head, pair]).sum())
        for part in (0, 1):
            a, b = qkv[token, part, head, pair].item(), qkv[token, part, head, pair + 3].item()
            found = turned[token, part, head, pair].item(), turned[token, part, head, pair + 3].item()
            expected = a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)
            assert found == pytest.approx(expected, abs=1e-4)
    assert torch.equal(turned[:, 2], qkv[:, 2])


@pytest.mark.parametrize("shape", [(2, 7), (9,)], ids=["padded", "packed"])
def test_fewer_passes_give_the_values_and_gradients_of_the_plain_ones(shape: tuple[int, ...]) -> None:
    rotary = some_rotary()
    qkv, weight = torch.randn(*shape, 3, 4, 24, requires_grad=True), torch.randn(*shape, 3, 4, 24)
    found, expected = [], []
    for results, turn in ((found, rotate), (expected, lambda qkv, rotation: rotate_plainly(qkv, rotation.angle))):
        turned = turn(qkv, Rotation.of(rotary(some_blocks(*shape)), torch.float32))
        results += [turned.detach(), *torch.autograd.grad((turned * weight).sum(), [qkv, rotary.frequencies])]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert found[2].any()


def test_gradients_are_those_of_differences() -> None:
    rotary = some_rotary(2, 6).double()
    blocks = some_blocks(4, most=5)

    def turned(qkv: Tensor, frequencies: Tensor) -> Tensor:
        angle = torch.einsum("na,ahp->nhp", blocks.double(), frequencies.view(AXES, 2, 3))[:, None]
        return rotate(qkv, Rotation.of(angle, torch.float64))

    qkv = torch.randn(4, 3, 2, 6, dtype=torch.float64, requires_grad=True)
    # The gradient of the angles is summed in float32.
    torch.autograd.gradcheck(turned, (qkv, rotary.frequencies.detach().requires_grad_()), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_is_the_same_wherever_the_tokens_lie() -> None:
    """Also beyond every grid that the frequencies were made for."""
    attention, rotary, tokens = Attention(96, 4), some_rotary(), torch.randn(2, 11, 96)
    blocks = some_blocks(2, 11)
    here = attention(tokens, None, Rotation.of(rotary(blocks), torch.float32))
    for offset in ((5, 0, 0), (0, 17, 0), (0, 0, 3), (200, 1, 90)):
        there = attention(tokens, None, Rotation.of(rotary(blocks + torch.tensor(offset)), torch.float32))
        torch.testing.assert_close(there, here, rtol=1e-3, atol=2e-4)
    stretched = attention(tokens, None, Rotation.of(rotary(2 * blocks), torch.float32))
    assert (stretched - here).abs().max() > 0.01


def test_angles_stay_float32_under_autocast_and_beside_bfloat16() -> None:
    rotary, blocks = some_rotary(), some_blocks(3)
    exact = Rotation.of(rotary(blocks), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = Rotation.of(rotary(blocks), torch.bfloat16)
    assert torch.equal(rough.angle, exact.angle)
    assert (rough.cosine.dtype, rough.sine.dtype) == (torch.bfloat16, torch.bfloat16)
    qkv = torch.randn(3, 3, 4, 24, dtype=torch.bfloat16, requires_grad=True)
    turned = rotate(qkv, rough)
    turned.float().sum().backward()
    assert turned.dtype == torch.bfloat16 and rotary.frequencies.grad.dtype == torch.float32


def test_a_repeated_rotation_is_that_of_the_repeated_tokens() -> None:
    rotary, blocks = some_rotary(), some_blocks(2, 5)
    repeated = Rotation.of(rotary(blocks), torch.float32).repeated(3)
    whole = Rotation.of(rotary(blocks.repeat(3, 1, 1)), torch.float32)
    for one, other in ((repeated.angle, whole.angle), (repeated.cosine, whole.cosine), (repeated.sine, whole.sine)):
        assert torch.equal(one, other)
