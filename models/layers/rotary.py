"""Rotary positions on three axes with learned frequencies (RoPE-Mixed: Heo et al. 2024, "Rotary Position Embedding for
Vision Transformer").

Two features of a head are a pair. Of the token at slot block t, subcarrier block k and antenna block a each pair of a
query or key is turned by the angle w_t t + w_k k + w_a a, so that products of the two depend on differences of blocks
only: attention is the same wherever in a grid tokens lie, and knows no longest grid. The frequencies w are learned.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

AXES = 3
HIGHEST, LOWEST = 1.0, math.pi / 64
"""First frequencies of an axis, radians a block: the lowest makes half a turn along 64 blocks, so that no two of them
look alike; the highest still grows with the distance along the three blocks of the shortest grids."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Angles of a batch's tokens, the same for all layers of a stack.

    angle: float32 [..., 1, heads, pairs], which gradients go to. cosine: [..., 1, heads, 2 pairs], each one twice, and
    sine: [..., 1, heads, pairs], both in the type of the tokens and without gradient.
    """

    angle: Tensor
    cosine: Tensor
    sine: Tensor

    @classmethod
    def of(cls, angle: Tensor, dtype: torch.dtype) -> "Rotation":
        """Of angles as ``Rotary`` gives them. dtype: of the tokens."""
        cosine = angle.detach().cos().to(dtype)
        return cls(angle, torch.cat([cosine, cosine], dim=-1), angle.detach().sin().to(dtype))

    def repeated(self, times: int) -> "Rotation":
        """Of a batch that is there so many times, one after the other."""
        parts = (part.repeat(times, *(1 for _ in part.shape[1:])) for part in (self.angle, self.cosine, self.sine))
        return Rotation(*parts)


class Rotary(nn.Module):
    """Learned frequencies of a stack, which all of its layers share."""

    float32 = ("frequencies",)
    """bfloat16 has steps of 1/128 at 1: half a radian at a distance of 64 blocks."""

    def __init__(self, heads: int, width: int) -> None:
        """width: features of a head, an even number."""
        super().__init__()
        assert width % 2 == 0, "features turn in pairs"
        self.heads = heads
        # One axis, as all that has no weight decay.
        self.frequencies = nn.Parameter(first_frequencies(heads, width // 2).flatten())

    def forward(self, blocks: Tensor) -> Tensor:
        """Angles float32 [..., 1, heads, pairs] of tokens at some slot, subcarrier and antenna blocks int64 [..., 3].

        A tensor, as ZeRO stage 3 wants it of modules that have parameters.
        """
        slot, subcarrier, antenna = self.frequencies.view(AXES, self.heads, -1).unbind(0)
        # No matrix product: autocast would take it in bfloat16, and a GPU perhaps in tf32.
        t, k, a = blocks.float()[..., None, None, None].unbind(-4)
        return t * slot + k * subcarrier + a * antenna


def first_frequencies(heads: int, pairs: int) -> Tensor:
    """Float32 [3, heads, pairs]: every pair turns along one axis, which the pairs of a head and the heads take in turn.

    The frequencies of an axis are a geometric series from ``HIGHEST`` to ``LOWEST`` over all heads, dealt to the heads
    one by one, so that each has slow and fast ones.
    """
    frequencies = torch.zeros(AXES, heads, pairs)
    for axis in range(AXES):
        places = [(head, pair) for pair in range(pairs) for head in range(heads) if (head + pair) % AXES == axis]
        series = torch.logspace(math.log10(HIGHEST), math.log10(LOWEST), len(places))
        for (head, pair), frequency in zip(places, series, strict=True):
            frequencies[axis, head, pair] = frequency
    return frequencies


def rotate(qkv: Tensor, rotation: Rotation) -> Tensor:
    """Queries, keys and values [..., 3, heads, 2 pairs], the first two turned; a pair is feature i and i + pairs."""
    if torch.compiler.is_compiling():
        # The compiler makes one loop of it, there and back.
        return rotate_plainly(qkv, rotation.angle)
    return cast(Tensor, _Rotate.apply(qkv, rotation.angle, rotation.cosine, rotation.sine))  # type: ignore[no-untyped-call]


def rotate_plainly(qkv: Tensor, angle: Tensor) -> Tensor:
    """``rotate`` as one writes it down."""
    cosine, sine = angle.cos().to(qkv.dtype), angle.sin().to(qkv.dtype)
    first, second = qkv[..., :2, :, :].chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return torch.cat([turned, qkv[..., 2:, :, :]], dim=-3)


class _Rotate(torch.autograd.Function):
    """``rotate_plainly`` in few passes over memory, of which it keeps one for the backward pass.

    Short rows make a pass slow on a CPU, and half a head is a short one: what can be done with whole tokens is.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, angle: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        turned = _turn(qkv, cosine, sine, 1)
        ctx.save_for_backward(turned, cosine, sine)
        return turned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        turned, cosine, sine = ctx.saved_tensors
        of_angle = None
        if ctx.needs_input_grad[1]:
            # An angle moves the first of a pair by minus the second, the second by the first.
            first, second = turned[..., :2, :, :].chunk(2, dim=-1)
            along_first, along_second = gradient[..., :2, :, :].chunk(2, dim=-1)
            moved = (along_second * first).addcmul_(along_first, second, value=-1)
            of_angle = moved.sum(dim=-3, keepdim=True, dtype=torch.float32)
        return _turn(gradient, cosine, sine, -1), of_angle, None, None


def _turn(qkv: Tensor, cosine: Tensor, sine: Tensor, way: int) -> Tensor:
    """Queries and keys turned forward (1) or back (-1), values copied."""
    turned = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    turned[..., 2, :, :] = qkv[..., 2, :, :]
    pairs, result = qkv[..., :2, :, :], turned[..., :2, :, :]
    torch.mul(pairs, cosine, out=result)
    (first, second), (into_first, into_second) = pairs.chunk(2, dim=-1), result.chunk(2, dim=-1)
    into_first.addcmul_(second, sine, value=-way)
    into_second.addcmul_(first, sine, value=way)
    return turned
