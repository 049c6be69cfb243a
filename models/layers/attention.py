"""Pre-norm transformer blocks over padded batches, whose padding no token attends to, or over packed sequences."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.packed_attention import packed_attention
from models.layers.packing import Sequences

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, keys: Tensor | Sequences | None) -> Tensor:
        """Tokens [B, L, width]; keys bool [B, 1, 1, L], True for those that count, None where all do.

        Or tokens [N, width] of packed sequences, each attending to itself.
        """
        if isinstance(keys, Sequences):
            qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
            return cast(Tensor, self.proj(packed_attention(qkv, keys).flatten(1)))
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, length, width)))


class Block(nn.Module):
    """Pre-norm attention and GELU network, each with a residual connection."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, tokens: Tensor, keys: Tensor | Sequences | None) -> Tensor:
        """Tokens [B, L, width] or [N, width]; keys as of ``Attention``."""
        tokens = tokens + self.attention(self.norm1(tokens), keys)
        return cast(Tensor, tokens + self.mlp(self.norm2(tokens)))


class Stack(nn.Module):
    """Blocks and a final norm."""

    def __init__(self, width: int, depth: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor, keys: Tensor | Sequences | None) -> Tensor:
        """Tokens [B, L, width]; keys bool [B, L], True for those that count, None where all do.

        Or tokens [N, width] of packed sequences.
        """
        if isinstance(keys, Tensor):
            keys = visible_keys(keys)
        for block in self.blocks:
            tokens = block(tokens, keys)
        return cast(Tensor, self.norm(tokens))


def visible_keys(mask: Tensor) -> Tensor:
    """Bool [B, 1, 1, L] of bool [B, L]. A row without any key sees its first one: its softmax stays finite."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    empty = ~mask.any(dim=1, keepdim=True)
    return (mask | (empty & first))[:, None, None, :]


def block_macs(length: int, width: int, expansion: int) -> int:
    """Multiply-accumulates of one block over ``length`` tokens: projections, network, and both attention products."""
    return length * width * width * (4 + 2 * expansion) + 2 * length * length * width
