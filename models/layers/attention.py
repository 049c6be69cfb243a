"""Transformer blocks over padded batches, whose padding no token attends to, or over packed sequences."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from models.layers.packed_attention import HALF, packed_attention
from models.layers.packing import Sequences
from models.layers.padded_attention import RowKeys, padded_attention
from models.layers.rotary import Rotary, Rotation, rotate

NORM_EPS = 1e-6
BERT_NORM_EPS = 1e-12


class Mixing(nn.Module):
    """What attention does between its projections."""

    traceable = False
    """Sequences change with every packed batch, so each would be compiled again; its kernels are fused ones anyway."""

    def forward(self, qkv: Tensor, keys: RowKeys | Sequences | None) -> Tensor:
        """[B, L, heads, width] of [B, L, 3, heads, width], or without B and with N in place of L; keys as below."""
        if qkv.device.type == "cpu" and qkv.dtype in HALF:
            # On a CPU the fused kernel is several times slower in half precision; the linear layers are not.
            with torch.autocast("cpu", enabled=False):
                return _mix(qkv.float(), keys).to(qkv.dtype)
        return _mix(qkv, keys)


def _mix(qkv: Tensor, keys: RowKeys | Sequences | None) -> Tensor:
    return packed_attention(qkv, keys) if isinstance(keys, Sequences) else padded_attention(qkv, keys)


class Attention(nn.Module):
    """Multi-head self-attention."""

    stacked: ClassVar = {"qkv": 3}
    """Linear layers whose weight is several maps, one below the other, and how many."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mixing = Mixing()

    def forward(self, tokens: Tensor, keys: RowKeys | Sequences | None, rotation: Rotation | None = None) -> Tensor:
        """Tokens [B, L, width], of which ``keys`` count, None where all do. rotation: of rotary positions.

        Or tokens [N, width] of packed sequences, each attending to itself.
        """
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        if rotation is not None:
            qkv = rotate(qkv, rotation)
        return cast(Tensor, self.proj(self.mixing(qkv, keys).flatten(-2)))


class Block(nn.Module):
    """Pre-norm attention and GELU network, each with a residual connection."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, tokens: Tensor, keys: RowKeys | Sequences | None, rotation: Rotation | None = None) -> Tensor:
        """Tokens [B, L, width] or [N, width]; keys and rotation as of ``Attention``."""
        tokens = tokens + self.attention(self.norm1(tokens), keys, rotation)
        return cast(Tensor, tokens + self.mlp(self.norm2(tokens)))


class PostNormBlock(nn.Module):
    """Attention and GELU network, each followed by a norm of its sum with its input: BERT's layer (Devlin 2019)."""

    def __init__(self, width: int, heads: int, network: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, network), nn.GELU(), nn.Linear(network, width))
        self.norm2 = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, keys: RowKeys | Sequences | None) -> Tensor:
        """Tokens [B, L, width] or [N, width]; keys as of ``Attention``."""
        tokens = self.norm1(tokens + self.dropout(self.attention(tokens, keys)))
        return cast(Tensor, self.norm2(tokens + self.dropout(self.mlp(tokens))))


class Stack(nn.Module):
    """Blocks and a final norm. rotary: whether it has frequencies of rotary positions."""

    def __init__(self, width: int, depth: int, heads: int, expansion: int, rotary: bool = False) -> None:
        super().__init__()
        self.rotary = Rotary(heads, width // heads) if rotary else None
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor, keys: Tensor | Sequences | None, rotation: Rotation | None = None) -> Tensor:
        """Tokens [B, L, width]; keys bool [B, L], True for those that count, the first of each row; None where all do.

        Or tokens [N, width] of packed sequences. rotation: of ``rotary`` for the same tokens.
        """
        rows = RowKeys.of(keys) if isinstance(keys, Tensor) else keys
        for block in self.blocks:
            tokens = block(tokens, rows, rotation)
        return cast(Tensor, self.norm(tokens))


def block_macs(length: int, width: int, expansion: int) -> int:
    """Multiply-accumulates of one block over ``length`` tokens: projections, network, and both attention products."""
    return length * width * width * (4 + 2 * expansion) + 2 * length * length * width
