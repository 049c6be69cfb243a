"""The raw baseline: no backbone at all, one affine map from each patch to itself (what masking alone is worth)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.interface import Shape
from models.snapshot.model import SnapshotModel
from models.snapshot.spec import SnapshotSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSpec(SnapshotSpec):
    """The raw baseline's options: those of every model of single snapshots."""

    @property
    def name(self) -> str:
        """``raw``."""
        return "raw"

    @property
    def has_class_token(self) -> bool:
        """There is none: its embeddings are the patches themselves."""
        return False

    def length(self, shape: Shape, variant: int) -> int:
        """Patches of one snapshot: there is no class token."""
        return SnapshotSpec.length(self, shape, variant) - 1

    def build(self, seed: int) -> SnapshotModel:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return SnapshotModel(self, RawTokens(), NoBackbone(), RawHead(self.patches))

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one snapshot."""
        return 2.0 * self.length(shape, variant) * (2 * variant * variant) ** 2


class RawTokens(nn.Module):
    """Tokens as they are, behind a class token of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """[B, 1 + L, D] of tokens [B, L, D]."""
        return nn.functional.pad(tokens, (0, 0, 1, 0))


class NoBackbone(nn.Module):
    """Nothing."""

    def forward(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        """The tokens."""
        return tokens


class RawHead(nn.Module):
    """One affine map for each granularity."""

    def __init__(self, patches: tuple[int, ...]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({str(side): nn.Linear(2 * side * side, 2 * side * side) for side in patches})

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """[B, L, D] of tokens [B, L, D]."""
        mapped: Tensor = self.maps[str(side)](tokens)
        return mapped
