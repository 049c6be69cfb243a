"""Tokens of several granularities to vectors of one width, and back: patch embedding and reconstruction head."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.snapshot.patches import corner
from models.snapshot.spec import ClassToken, Embedding

CLASS_VALUE = 0.2
"""Every value of the published, constant class token."""


class PatchEmbedding(nn.Module):
    """Tokens of any granularity to vectors of one width, behind a class token, normalised.

    ``per_granularity``: one affine map for each patch side (published). ``shared``: one map over the widest patch, of
    which a smaller patch uses its upper left corner (paper: one shared map). Class token ``constant``: values of 0.2
    through the same map (published); ``learnable``: a vector of its own (paper). positions: longest sequence with a
    learned position, None for no positions.
    """

    def __init__(
        self,
        patches: tuple[int, ...],
        width: int,
        embedding: Embedding,
        class_token: ClassToken,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self.widest = max(patches)
        self.shared = embedding == "shared"
        sides = (self.widest,) if self.shared else patches
        self.maps = nn.ModuleDict({str(side): nn.Linear(2 * side * side, width) for side in sides})
        self.class_token = nn.Parameter(torch.randn(width)) if class_token == "learnable" else None
        self.positions = None if positions is None else nn.Parameter(torch.randn(positions, width))
        self.norm = norm(width)

    def forward(self, tokens: Tensor, side: int, index: Tensor | None = None) -> Tensor:
        """[B, 1 + L, width] of tokens [B, L, 2 p^2].

        Or [rows, width] of packed rows [rows, 2 p^2] with indices int64 [rows] in their sequences, 0 for a class token.
        """
        if index is not None:
            return self._embed_rows(tokens, side, index)
        if self.class_token is None:
            tokens = functional.pad(tokens, (0, 0, 1, 0), value=CLASS_VALUE)
        vectors = self._embed(tokens, side)
        if self.class_token is not None:
            vectors = torch.cat([self.class_token.expand(len(vectors), 1, -1), vectors], dim=1)
        if self.positions is not None:
            vectors = vectors + self.positions[: vectors.shape[1]]
        return cast(Tensor, self.norm(vectors))

    def _embed_rows(self, rows: Tensor, side: int, index: Tensor) -> Tensor:
        is_class = (index == 0)[:, None]
        vectors = self._embed(rows.masked_fill(is_class, CLASS_VALUE), side)
        if self.class_token is not None:
            vectors = torch.where(is_class, self.class_token, vectors)
        if self.positions is not None:
            vectors = vectors + self.positions[index]
        return cast(Tensor, self.norm(vectors))

    def _embed(self, tokens: Tensor, side: int) -> Tensor:
        if not self.shared:
            return cast(Tensor, self.maps[str(side)](tokens))
        linear = cast(nn.Linear, self.maps[str(self.widest)])
        # Inputs of the map are rows of its transpose, which must be contiguous to be cut.
        return functional.linear(tokens, corner(linear.weight.T.contiguous(), self.widest, side).T, linear.bias)


class PatchHead(nn.Module):
    """Vectors to tokens: a hidden layer, then an affine map as in ``PatchEmbedding``."""

    def __init__(
        self,
        patches: tuple[int, ...],
        width: int,
        embedding: Embedding,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.widest = max(patches)
        self.shared = embedding == "shared"
        sides = (self.widest,) if self.shared else patches
        self.hidden = nn.Linear(width, width)
        self.activation = activation()
        self.norm = norm(width)
        self.maps = nn.ModuleDict({str(side): nn.Linear(width, 2 * side * side) for side in sides})

    def forward(self, vectors: Tensor, side: int) -> Tensor:
        """[B, L, 2 p^2] of vectors [B, L, width]."""
        hidden = self.norm(self.activation(self.hidden(vectors)))
        if not self.shared:
            return cast(Tensor, self.maps[str(side)](hidden))
        linear = cast(nn.Linear, self.maps[str(self.widest)])
        weight, bias = (corner(part, self.widest, side) for part in (linear.weight, linear.bias))
        return functional.linear(hidden, weight, bias)
