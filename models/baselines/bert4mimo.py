"""BERT4MIMO: BERT over the subcarriers of one snapshot, hidden rows of which it fills in (HeterCSI's baseline).

A token is one subcarrier with all antennas of one slot. Hidden tokens are zero at the input; the network sees all of
them and predicts them from both sides. It is made for one number of antennas, of any number of subcarriers up to 512.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from models.baselines.bert_network import BertNetwork, BertSize, Rows
from models.interface import EvaluationTask, Shape, TokenBatch, Tokens
from models.layers.attention import block_macs
from models.layers.masking import MaskRatios, kept_tokens
from models.layers.patches import Grid, make_patches, patch_tensor
from models.references import Reference, predict_reference

VARIANT = 1
"""The one granularity: rows of one subcarrier."""
TASK = "reconstruction"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bert4MimoSpec:
    """BERT4MIMO's options.

    antennas: of all its samples; left out, those of the job's target set. mask_ratio: hidden share of the subcarriers.
    rows: whether hidden ones alone are trained and scored, or ``all`` as published, of which the visible ones are
    given at the input.
    """

    antennas: int | None = None
    size: Literal["published", "tiny"] = "published"
    mask_ratio: float = 0.85
    rows: Rows = "hidden"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        if self.antennas is not None and self.antennas < 1:
            raise UserError(f"{self.antennas!r} is below 1", where="model.antennas", mend="give at least 1")
        for name in ("mask_ratio", "dropout"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise UserError(f"{share!r} is not in [0, 1)", where=f"model.{name}", mend="give a share")

    @property
    def name(self) -> str:
        """``bert4mimo``."""
        return "bert4mimo"

    @property
    def variants(self) -> tuple[int, ...]:
        """One granularity: rows of one subcarrier."""
        return (VARIANT,)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Reconstruction of hidden rows."""
        return (TASK,)

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """The task of training."""
        return (EvaluationTask(name=TASK, variant=VARIANT),)

    def samples_per_stored(self, shape: Shape) -> int:
        """Every slot is a snapshot, a training sample of its own."""
        return shape[0]

    def length(self, shape: Shape, variant: int) -> int:
        """Subcarriers. Raises UserError for another number of antennas, and for more than there are positions."""
        return self.grid(shape, variant)[1]

    def target_tokens(self, shape: Shape, variant: int) -> tuple[int, ...]:
        """Rows of a snapshot that count in the loss."""
        length = self.length(shape, variant)
        kept = 0 if self.rows == "all" else int(kept_tokens(torch.tensor([1, length, 1]), self.ratios)[0])
        return (length - kept,)

    def reference(self, name: Reference, task: EvaluationTask, batch: TokenBatch, masked: Tensor) -> Tensor:
        """Training-free prediction of masked tokens [B, K, 2 A]; where all rows are scored it knows none of them."""
        return predict_reference(name, TASK, batch, masked, (1, 1, self.known_antennas))

    def tokenise(self, channels: NDArray[np.complex64], variant: int) -> Tokens:
        """Rows [n, K, 2 A] of snapshots [n, 1, K, A]."""
        self.grid((channels.shape[1], channels.shape[2], channels.shape[3]), variant)
        return make_patches(channels, (1, 1, self.known_antennas))

    def grid(self, shape: Shape, variant: int) -> Grid:
        """One block a subcarrier. Raises UserError as ``length`` does."""
        if variant != VARIANT:
            raise UserError(f"{self.name} has no granularity {variant!r}", mend=f"it has {VARIANT}")
        _, subcarriers, antennas = shape
        if antennas != self.known_antennas:
            what = f"{self.name} is made for {self.antennas} antennas, not for {antennas}"
            raise UserError(what, where="model.antennas", mend="train one for each number of antennas")
        longest = self.dimensions.positions
        if not 0 < subcarriers <= longest:
            what = f"{self.name} has positions of 1 to {longest} subcarriers, not of {subcarriers}"
            raise UserError(what, mend="leave the set out")
        return (1, subcarriers, 1)

    def patch(self, channels: Tensor, variant: int) -> Tensor:
        """Rows [n, K, 2 A] of snapshots [n, 1, K, A] on any device."""
        return patch_tensor(channels, (1, 1, self.known_antennas))

    def build(self, seed: int) -> BertNetwork:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return BertNetwork(2 * self.known_antennas, self.dimensions, self.ratios, self.rows, self.dropout)

    @property
    def packs(self) -> bool:
        """Only padded batches; samples of one set have no padding."""
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

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one snapshot: embedding, layers and output, over all rows."""
        length, size = self.length(shape, variant), self.dimensions
        ends = 2 * length * 2 * shape[2] * size.width
        return 2.0 * (ends + size.depth * block_macs(length, size.width, size.network // size.width))

    @property
    def dimensions(self) -> BertSize:
        """Of the network."""
        if self.size == "published":
            return BertSize(width=512, depth=6, heads=8, network=1024, positions=512)
        return BertSize(width=64, depth=2, heads=4, network=128, positions=512)

    @property
    def ratios(self) -> MaskRatios:
        """Hidden share of the subcarriers."""
        return MaskRatios(random=self.mask_ratio)

    @property
    def known_antennas(self) -> int:
        """Of all samples. Raises UserError where the number is not known."""
        if self.antennas is None:
            what = f"{self.name} is made for one number of antennas, and does not know it"
            raise UserError(
                what, where="model.antennas", mend="give it, or name the set it is trained on in data.target"
            )
        return self.antennas
