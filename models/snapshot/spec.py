"""Options and counts that the models of single snapshots share (WiMamba, LWM and the raw baseline)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from models.interface import EvaluationTask, Shape, TokenBatch, Tokens
from models.layers.patches import Grid
from models.references import Reference, predict_reference
from models.snapshot.masking import MaskPolicy, MaskValues
from models.snapshot.patches import patch_matrices, patch_snapshots, snapshot_grid, snapshot_tokens

Embedding = Literal["per_granularity", "shared"]
ClassToken = Literal["constant", "learnable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSpec:
    """patches: sides p of the square patches, one variant each. mask_share: masked part of the tokens. policy: parts of
    the masked tokens that show the constant, random values and themselves. mask_values: see ``MaskPolicy``; None is
    ``published``.
    """

    patches: tuple[int, ...] = (2, 4, 6, 8)
    mask_share: float = 0.40
    policy: tuple[float, float, float] = (0.8, 0.1, 0.1)
    mask_values: MaskValues | None = None

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        if not self.patches or min(self.patches) < 1 or len(set(self.patches)) < len(self.patches):
            what = f"{self.patches!r} are not distinct patch sides of at least 1"
            raise UserError(what, where="patches", mend="published: 2, 4, 6, 8")
        set_default(self, "mask_values", "published")
        # Making the policy checks its shares.
        _ = self.masking

    @property
    def masking(self) -> MaskPolicy:
        """Raises UserError for shares out of range."""
        constant, random, kept = self.policy
        assert self.mask_values is not None
        return MaskPolicy(share=self.mask_share, constant=constant, random=random, kept=kept, values=self.mask_values)

    @property
    def variants(self) -> tuple[int, ...]:
        """The patch sides."""
        return self.patches

    @property
    def tasks(self) -> tuple[str, ...]:
        """Reconstruction of masked tokens."""
        return ("reconstruction",)

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """Reconstruction at every granularity, e.g. ``reconstruction_4x4``."""
        return tuple(EvaluationTask(name=f"reconstruction_{side}x{side}", variant=side) for side in self.patches)

    def samples_per_stored(self, shape: Shape) -> int:
        """Every slot is a snapshot, a training sample of its own."""
        return shape[0]

    @property
    def has_class_token(self) -> bool:
        """Whether the vector of the class token stands for the whole snapshot."""
        return True

    def length(self, shape: Shape, variant: int) -> int:
        """Tokens of one snapshot of a sample of scale (T, K, A), class token included."""
        return 1 + self._tokens(shape, variant)

    def target_tokens(self, shape: Shape, variant: int) -> tuple[int, ...]:
        """Masked tokens of one snapshot."""
        return (self.masking.masked_tokens(self._tokens(shape, variant)),)

    def reference(self, name: Reference, task: EvaluationTask, batch: TokenBatch, masked: Tensor) -> Tensor:
        """Training-free prediction of masked tokens [B, L, 2 p^2], along the subcarriers, then along the antennas."""
        rows_first = replace(batch, grid=batch.grid[:, [0, 2, 1]], grids=None)
        return predict_reference(name, "snapshot", rows_first, masked, (1, task.variant, task.variant))

    def tokenise(self, channels: NDArray[np.complex64], variant: int) -> Tokens:
        """Patches [n, L, 2 p^2] of snapshots [n, 1, K, A]; the class token is added by the network."""
        self.check_variant(variant)
        return patch_snapshots(channels, variant)

    def grid(self, shape: Shape, variant: int) -> Grid:
        """Blocks of one snapshot along (slots, subcarriers, antennas)."""
        self.check_variant(variant)
        return snapshot_grid(shape, variant)

    def patch(self, channels: Tensor, variant: int) -> Tensor:
        """Patches [n, L, 2 p^2] of snapshots [n, 1, K, A] on any device."""
        self.check_variant(variant)
        return patch_matrices(channels[:, 0], variant)

    @property
    def packs(self) -> bool:
        """Only padded batches."""
        return False

    @property
    def keeps_float32(self) -> bool:
        """All weights may be bfloat16."""
        return False

    def check(self, device: str) -> None:
        """It computes everywhere."""

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """There is nothing to choose."""
        return ()

    def check_variant(self, variant: int) -> None:
        """Raises UserError for a granularity that is not an option."""
        if variant not in self.patches:
            known = ", ".join(str(side) for side in self.patches)
            raise UserError(f"granularity {variant!r} is not in the set", where="patches", mend=f"it is {known}")

    def _tokens(self, shape: Shape, variant: int) -> int:
        self.check_variant(variant)
        return snapshot_tokens(shape, variant)


def set_default(spec: SnapshotSpec, field: str, value: str) -> None:
    """Fill in an option that was left None."""
    if getattr(spec, field) is None:
        object.__setattr__(spec, field, value)


def check_dropout(dropout: float) -> None:
    """Raises UserError for a dropout outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise UserError(f"{dropout!r} is not a share of [0, 1)", where="dropout", mend="published: 0.1")
