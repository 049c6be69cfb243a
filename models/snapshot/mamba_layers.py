"""Bidirectional Mamba layers over two halves of the features, both directions in one selective scan.

Parameters of the two directions are stacked on a leading axis of 2, forward first. Those that weight decay would harm
(A, D and the biases; Mamba's authors exempt them) are stored flat, since one-dimensional parameters are not decayed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.layers.packing import Sequences
from models.scan.backends import Wanted, choose_backend, compiler_knows
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend, Extents

REVERSE = (False, True)
"""Directions of the two halves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaSize:
    """width: features of a token, of which each direction reads and writes a half. state: numbers a channel remembers.

    conv: taps of the short convolution. scan: backend of the selective scan.
    """

    width: int
    state: int
    conv: int
    scan: Wanted

    @property
    def half(self) -> int:
        """Features of one direction."""
        return self.width // 2

    @property
    def inner(self) -> int:
        """Channels of one direction: 1.2 times its features, rounded down (published)."""
        return int(1.2 * self.half)

    @property
    def rank(self) -> int:
        """Rank of the step sizes: a sixteenth of a direction's features, rounded up."""
        return math.ceil(self.half / 16)

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of both directions for one token, the scan's own 3 for each state included."""
        maps = 2 * self.half * self.inner + self.inner * (2 * self.rank + 2 * self.state) + self.inner * self.half
        return 2 * (maps + self.inner * (self.conv + 3 * self.state))


class BidirectionalMamba(nn.Module):
    """A forward and a backward Mamba (Gu and Dao 2023), each on one half of the features.

    Activations have the type of the tokens and maps, or that of autocast. The scan and the convolution read and write
    it and compute in float32.
    """

    float32 = ("step_bias", "log_decay", "skip")
    """Parameters of the scan itself, which stay float32 whatever the others are."""

    def __init__(self, size: MambaSize) -> None:
        super().__init__()
        self.size = size
        inner, state, rank = size.inner, size.state, size.rank
        self.in_weight = _uniform((2, 2 * inner, size.half), fan_in=size.half)
        self.conv_weight = _uniform((2, inner, size.conv), fan_in=size.conv)
        self.conv_bias = _uniform((2 * inner,), fan_in=size.conv)
        self.select_weight = _uniform((2, rank + 2 * state, inner), fan_in=inner)
        self.step_weight = _uniform((2, inner, rank), fan_in=rank)
        self.step_bias = nn.Parameter(_initial_step_bias(2 * inner))
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(2 * inner))
        self.skip = nn.Parameter(torch.ones(2 * inner))
        self.out_weight = _uniform((2, size.half, inner), fan_in=inner)

    def forward(self, tokens: Tensor, lengths: Extents) -> Tensor:
        """[B, L, width] of tokens [B, L, 2, width / 2]; lengths as of ``MambaBackbone``."""
        packed = isinstance(lengths, Sequences)
        if not torch.compiler.is_compiling():
            return self._mix(tokens, lengths, choose_backend(tokens.device.type, self.size.scan, packed))
        # A graph with the ends of packed sequences in it would serve one batch only.
        if packed or not compiler_knows(tokens.device.type, self.size.scan):
            return cast(Tensor, self._aside(tokens, lengths))
        from models.scan.triton_backend import TRITON

        return self._mix(tokens, lengths, TRITON)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _aside(self, tokens: Tensor, lengths: Extents) -> Tensor:
        """``forward`` as it is inside compiled blocks: most backends call what torch.compile cannot look into."""
        return self.forward(tokens, lengths)

    def _mix(self, tokens: Tensor, lengths: Extents, backend: Backend) -> Tensor:
        size = self.size
        channels, gate = grouped_linear(tokens, self.in_weight).chunk(2, dim=-1)
        channels = short_convolution(
            channels, self.conv_weight, self.conv_bias.view(2, -1), reverse=REVERSE, lengths=lengths, backend=backend
        )
        selected = grouped_linear(channels, self.select_weight)
        step, source, readout = torch.split(selected, [size.rank, size.state, size.state], dim=-1)
        mixed = selective_scan(
            channels,
            grouped_linear(step, self.step_weight),
            -self.log_decay.float().exp().view(2, size.inner, size.state),
            source,
            readout,
            self.skip.view(2, -1),
            gate,
            self.step_bias.view(2, -1),
            reverse=REVERSE,
            lengths=lengths,
            backend=backend,
        )
        return grouped_linear(mixed, self.out_weight).flatten(2)


class PublishedLayer(nn.Module):
    """The layer of the published code: norms before and after, projections around both directions, a GELU network."""

    def __init__(self, size: MambaSize, dropout: float) -> None:
        super().__init__()
        width = size.width
        self.norm_in = nn.LayerNorm(width)
        self.proj_in = nn.Linear(width, width)
        self.mamba = BidirectionalMamba(size)
        self.proj_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm_mixed = nn.LayerNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, lengths: Extents) -> Tensor:
        """[B, L, width] of tokens [B, L, width]."""
        halves = self.proj_in(self.norm_in(tokens)).unflatten(-1, (2, -1))
        tokens = self.norm_mixed(tokens + self.dropout(self.proj_out(self.mamba(halves, lengths))))
        return cast(Tensor, self.norm_out(tokens + self.network(tokens)))


class PaperLayer(nn.Module):
    """The layer of the paper's text: each direction reads and writes a half of the features, and a residual.

    The text names no norm, no projection and no network.
    """

    def __init__(self, size: MambaSize, dropout: float) -> None:
        super().__init__()
        self.mamba = BidirectionalMamba(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, lengths: Extents) -> Tensor:
        """[B, L, width] of tokens [B, L, width]."""
        halves = tokens.reshape(*tokens.shape[:2], 2, -1)
        return cast(Tensor, tokens + self.dropout(self.mamba(halves, lengths)))


class MambaBackbone(nn.Module):
    """A stack of layers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, lengths: Extents) -> Tensor:
        """[B, L, width] of tokens [B, L, width]; lengths int64 [B] valid tokens, None for all.

        Or [N, width] of tokens [N, width] of packed sequences.
        """
        packed = isinstance(lengths, Sequences)
        tokens = tokens[None] if packed else tokens
        for layer in self.layers:
            tokens = layer(tokens, lengths)
        return tokens[0] if packed else tokens


def grouped_linear(tokens: Tensor, weight: Tensor) -> Tensor:
    """[B, L, groups, outputs] of tokens [B, L, groups, inputs], a weight [groups, outputs, inputs] for each group."""
    return torch.einsum("blgi,goi->blgo", tokens, weight)


def _uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    """Drawn as by torch.nn.Linear and torch.nn.Conv1d."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def _initial_step_bias(count: int) -> Tensor:
    """Inverse softplus of step sizes, log-uniform in [0.001, 0.1] (Mamba's initialisation)."""
    steps = torch.empty(count).uniform_(math.log(0.001), math.log(0.1)).exp()
    return steps + torch.log(-torch.expm1(-steps))
