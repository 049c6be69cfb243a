"""What is known of a masked auto-encoder without building it: lengths, masked tokens, operations."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from models.autoencoder.sizes import PATCH, Size, pass_macs
from models.interface import EvaluationTask, Shape, TokenBatch, Tokens
from models.layers.masking import TASKS, MaskRatios, kept_tokens
from models.layers.packed_attention import describe
from models.layers.patches import Grid, grid_of, make_patches, patch_tensor
from models.references import Reference, predict_reference

VARIANT = 4
"""The one granularity: patches of 4 x 4 x 4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderSpec:
    """Options that the models share: the masked shares of tokens, slot blocks and subcarrier blocks."""

    random_ratio: float = 0.85
    time_ratio: float = 0.5
    frequency_ratio: float = 0.5

    def __post_init__(self) -> None:
        """Raises UserError for a ratio outside [0, 1)."""
        # Making the ratios checks them.
        _ = self.ratios

    @property
    def dimensions(self) -> Size:
        """Dimensions of the network, which each model has of its own."""
        raise NotImplementedError

    @property
    def variants(self) -> tuple[int, ...]:
        """One granularity: patches of 4 x 4 x 4."""
        return (VARIANT,)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Reconstruction (random masks), time (later slots), frequency (upper subcarriers)."""
        return TASKS

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """The tasks of training."""
        return tuple(EvaluationTask(name=task, variant=VARIANT) for task in TASKS)

    @property
    def ratios(self) -> MaskRatios:
        """Masked shares."""
        return MaskRatios(random=self.random_ratio, time=self.time_ratio, frequency=self.frequency_ratio)

    def samples_per_stored(self, shape: Shape) -> int:
        """One training sample for each stored one."""
        return 1

    def length(self, shape: Shape, variant: int) -> int:
        """Tokens of a sample of scale (T, K, A)."""
        slots, subcarriers, antennas = self.grid(shape, variant)
        return slots * subcarriers * antennas

    def target_tokens(self, shape: Shape, variant: int) -> tuple[int, ...]:
        """Masked tokens of a sample for each task."""
        grid = torch.tensor(self.grid(shape, variant))
        return tuple((grid.prod() - kept_tokens(grid, self.ratios)).tolist())

    def reference(self, name: Reference, task: EvaluationTask, batch: TokenBatch, masked: Tensor) -> Tensor:
        """Training-free prediction of masked tokens [B, L, 128]."""
        return predict_reference(name, task.name, batch, masked, PATCH)

    def tokenise(self, channels: NDArray[np.complex64], variant: int) -> Tokens:
        """Patches [n, L, 128] of channels [n, T, K, A]."""
        _check_variant(variant)
        return make_patches(channels, PATCH)

    def grid(self, shape: Shape, variant: int) -> Grid:
        """Blocks of 4 x 4 x 4."""
        _check_variant(variant)
        return grid_of(shape, PATCH)

    def patch(self, channels: Tensor, variant: int) -> Tensor:
        """Patches [n, L, 128] of channels on any device."""
        _check_variant(variant)
        return patch_tensor(channels, PATCH)

    @property
    def packs(self) -> bool:
        """Padded and packed batches."""
        return True

    @property
    def keeps_float32(self) -> bool:
        """All weights may be bfloat16."""
        return False

    def check(self, device: str) -> None:
        """It computes everywhere."""

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """How packed sequences attend."""
        return (describe(device),) if packed else ()

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of the three mask passes over a sample: kept tokens in the encoder, all in the decoder."""
        length = self.length(shape, variant)
        size = self.dimensions
        counts = [length - masked for masked in self.target_tokens(shape, variant)]
        return 2.0 * sum(pass_macs(size, kept, length) for kept in counts)


def _check_variant(variant: int) -> None:
    if variant != VARIANT:
        raise UserError(f"there is no granularity {variant!r}", mend=f"it has {VARIANT}")
