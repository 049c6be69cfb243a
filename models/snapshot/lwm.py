"""LWM: the transformer that WiMamba is compared with, as its authors retrained it (a re-implementation of LWM 1.1).

Post-norm encoder with a double residual around attention: the attention returns its input plus its output, and the
input is added once more before the norm. The norm divides by the unbiased standard deviation plus epsilon.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from channels.errors import UserError
from models.interface import Shape
from models.layers.attention import block_macs
from models.layers.packed_attention import describe, packed_attention
from models.layers.packing import Sequences
from models.snapshot.embedding import PatchEmbedding, PatchHead
from models.snapshot.model import SnapshotModel
from models.snapshot.spec import SnapshotSpec, check_dropout

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class LwmSpec(SnapshotSpec):
    """LWM's options.

    positions: longest sequence, class token included. attention: ``fast`` (fused) or ``naive`` (as published, the whole
    L x L map in memory; for comparisons of latency).
    """

    size: Literal["published", "tiny"] = "published"
    positions: int = 513
    dropout: float = 0.1
    attention: Literal["fast", "naive"] = "fast"

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        SnapshotSpec.__post_init__(self)
        check_dropout(self.dropout)
        if self.positions < 2:
            raise UserError(f"{self.positions!r} leaves no place for a token", where="positions", mend="published: 513")

    @property
    def name(self) -> str:
        """``lwm``."""
        return "lwm"

    @property
    def packs(self) -> bool:
        """With fused attention; the naive one is kept as it was published, for padded batches."""
        return self.attention == "fast"

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """How packed sequences attend."""
        return (describe(device),) if packed else ()

    def length(self, shape: Shape, variant: int) -> int:
        """Tokens of one snapshot, class token included. Raises UserError for more than there are positions."""
        length = SnapshotSpec.length(self, shape, variant)
        if length > self.positions:
            what = f"{length} tokens (scale {tuple(shape)}, patches of side {variant}), but {self.positions} positions"
            raise UserError(what, where="positions", mend="take larger patches, leave the set out or raise positions")
        return length

    def build(self, seed: int) -> SnapshotModel:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            embedding = PatchEmbedding(
                self.patches, self.width, "per_granularity", "constant", norm=UnbiasedNorm, positions=self.positions
            )
            layers = [LwmLayer(self.width, 8, self.dropout, self.attention) for _ in range(self.depth)]
            head = PatchHead(self.patches, self.width, "per_granularity", norm=UnbiasedNorm, activation=nn.ReLU)
            return SnapshotModel(self, embedding, LwmBackbone(layers), head)

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one snapshot: embedding, layers and head, of which only the first two see the class token."""
        length, width, token = self.length(shape, variant), self.width, 2 * variant * variant
        ends = length * token * width + (length - 1) * width * (width + token)
        return 2.0 * (ends + self.depth * block_macs(length, width, expansion=4))

    @property
    def depth(self) -> int:
        """Layers."""
        return 12 if self.size == "published" else 4

    @property
    def width(self) -> int:
        """Features of a token."""
        return 128 if self.size == "published" else 64


class UnbiasedNorm(nn.Module):
    """Layer norm with the unbiased standard deviation, to which epsilon is added (published)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """Same shape; normalised over the last axis."""
        centred = vectors - vectors.mean(dim=-1, keepdim=True)
        return self.weight * centred / (vectors.std(dim=-1, keepdim=True) + NORM_EPS) + self.bias


class LwmLayer(nn.Module):
    """Attention and a ReLU network, each followed by a norm."""

    stacked: ClassVar = {"qkv": 3}
    """Linear layers whose weight is several maps, one below the other, and how many."""

    def __init__(self, width: int, heads: int, dropout: float, attention: Literal["fast", "naive"]) -> None:
        super().__init__()
        self.heads = heads
        self.naive = attention == "naive"
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm_mixed = UnbiasedNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.norm_out = UnbiasedNorm(width)

    def forward(self, tokens: Tensor, keys: Tensor | Sequences | None) -> Tensor:
        """[B, L, width] of tokens [B, L, width]; keys bool [B, 1, 1, L], True for those that count.

        Or [N, width] of tokens [N, width] of packed sequences.
        """
        attended = tokens + self.dropout(self.proj(self._attend(tokens, keys)))
        tokens = self.norm_mixed(tokens + attended)
        return cast(Tensor, self.norm_out(tokens + self.network(tokens)))

    def _attend(self, tokens: Tensor, keys: Tensor | Sequences | None) -> Tensor:
        if isinstance(keys, Sequences):
            return packed_attention(self.qkv(tokens).unflatten(-1, (3, self.heads, -1)), keys).flatten(1)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.naive:
            mixed = naive_attention(query, key, value, keys)
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, keys)
        return mixed.transpose(1, 2).flatten(2)


class LwmBackbone(nn.Module):
    """A stack of layers that attend to valid tokens only."""

    def __init__(self, layers: list[LwmLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, lengths: Tensor | Sequences | None) -> Tensor:
        """[B, L, width] of tokens [B, L, width]; lengths int64 [B] valid tokens, None for all.

        Or [N, width] of tokens [N, width] of packed sequences.
        """
        keys = lengths
        if isinstance(lengths, Tensor):
            keys = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[:, None, None, :]
        for layer in self.layers:
            tokens = layer(tokens, keys)
        return tokens


def naive_attention(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """Softmax attention [B, heads, L, width] through the whole [B, heads, L, L] map, as the published code runs it."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask, -torch.inf)
    mixed: Tensor = scores.softmax(dim=-1) @ value
    return mixed
