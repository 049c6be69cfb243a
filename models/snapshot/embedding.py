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
    which a smaller patch uses its upper left corner (paper: one shared map). The class token is one more token and goes
    through the same map. ``constant``: all its values are 0.2 (published). ``learnable``: a token of the widest patch,
    of which a smaller patch uses the corner (paper). positions: longest sequence with a learned position, None for no
    positions.
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
        sides = map_sides(patches, embedding)
        self.maps = nn.ModuleDict({str(side): nn.Linear(2 * side * side, width) for side in sides})
        self.class_token = nn.Parameter(torch.randn(2 * self.widest**2)) if class_token == "learnable" else None
        self.positions = None if positions is None else nn.Parameter(torch.randn(positions, width))
        self.norm = norm(width)

    def forward(self, tokens: Tensor, side: int, index: Tensor | None = None) -> Tensor:
        """[B, 1 + L, width] of tokens [B, L, 2 p^2].

        Or [rows, width] of packed rows [rows, 2 p^2] with indices int64 [rows] in their sequences, 0 for a class token.
        """
        class_token = self._class_token(tokens, side)
        if index is None:
            tokens = torch.cat([class_token.expand(len(tokens), 1, -1), tokens], dim=1)
        else:
            tokens = torch.where((index == 0)[:, None], class_token, tokens)
        vectors = self._embed(tokens, side)
        if self.positions is not None:
            vectors = vectors + (self.positions[: vectors.shape[1]] if index is None else self.positions[index])
        return cast(Tensor, self.norm(vectors))

    def _class_token(self, tokens: Tensor, side: int) -> Tensor:
        """[2 p^2]."""
        if self.class_token is None:
            return tokens.new_full((2 * side * side,), CLASS_VALUE)
        return corner(self.class_token, self.widest, side)

    def _embed(self, tokens: Tensor, side: int) -> Tensor:
        if str(side) in self.maps:
            return cast(Tensor, self.maps[str(side)](tokens))
        linear = cast(nn.Linear, self.maps[str(self.widest)])
        # Inputs of the map are rows of its transpose, which must be contiguous to be cut.
        return functional.linear(tokens, corner(linear.weight.T.contiguous(), self.widest, side).T, linear.bias)


class LinearHead(nn.Module):
    """Vectors to tokens by affine maps, as in ``PatchEmbedding`` (paper)."""

    def __init__(self, patches: tuple[int, ...], width: int, embedding: Embedding) -> None:
        super().__init__()
        self.maps = output_maps(patches, width, embedding)

    def forward(self, vectors: Tensor, side: int) -> Tensor:
        """[B, L, 2 p^2] of vectors [B, L, width]."""
        return decode(self.maps, vectors, side)


class PatchHead(nn.Module):
    """Vectors to tokens: a hidden layer, then affine maps as in ``PatchEmbedding`` (published)."""

    def __init__(
        self,
        patches: tuple[int, ...],
        width: int,
        embedding: Embedding,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.activation = activation()
        self.norm = norm(width)
        self.maps = output_maps(patches, width, embedding)

    def forward(self, vectors: Tensor, side: int) -> Tensor:
        """[B, L, 2 p^2] of vectors [B, L, width]."""
        return decode(self.maps, self.norm(self.activation(self.hidden(vectors))), side)


def map_sides(patches: tuple[int, ...], embedding: Embedding) -> tuple[int, ...]:
    """Patch sides that have an affine map of their own."""
    return (max(patches),) if embedding == "shared" else patches


def output_maps(patches: tuple[int, ...], width: int, embedding: Embedding) -> nn.ModuleDict:
    """Affine maps of vectors to tokens, by patch side."""
    return nn.ModuleDict({str(side): nn.Linear(width, 2 * side * side) for side in map_sides(patches, embedding)})


def decode(maps: nn.ModuleDict, vectors: Tensor, side: int) -> Tensor:
    """Tokens [B, L, 2 p^2] of vectors [B, L, width]; by the corner of the widest patch where its map is shared."""
    if str(side) in maps:
        return cast(Tensor, maps[str(side)](vectors))
    [(widest, module)] = maps.items()
    linear = cast(nn.Linear, module)
    weight, bias = (corner(part, int(widest), side) for part in (linear.weight, linear.bias))
    return functional.linear(vectors, weight, bias)
