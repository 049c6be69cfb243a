"""Channels as sequences: what of a sample is history and what is to be predicted.

The predicted part is what HeterCSI's temporal and frequency masks hide (:mod:`models.layers.masking`), whole blocks of
patches, so that errors of both are errors on the same elements. Each antenna is a sequence of its own: over the slots
with the subcarriers as features, or over the subcarriers with the slots, real and imaginary parts side by side.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from channels.errors import UserError
from models.interface import Shape
from models.layers.masking import MaskRatios, kept_blocks
from models.layers.patches import Grid, grid_of, repatch, unpatch

Task = Literal["time", "frequency"]
Direction = Literal["forward", "backward"]

PATCH: Shape = (4, 4, 4)
"""Patches in which samples come and predictions go: those of HeterCSI."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Samples of one scale (T, K, A) along one axis.

    direction: ``backward`` predicts the first part from the second, as the published code of the rivals does.
    """

    shape: Shape
    task: Task
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        """Raises UserError for a scale of which nothing is predicted."""
        if self.future < 1:
            axis = "slots" if self.task == "time" else "subcarriers"
            mend = f"it takes more than {PATCH[self.axis]} of them"
            raise UserError(f"{self.size} {axis} leave nothing to predict in task {self.task}", mend=mend)

    @property
    def axis(self) -> int:
        """0 for slots, 1 for subcarriers."""
        return 0 if self.task == "time" else 1

    @property
    def grid(self) -> Grid:
        """Blocks of a sample."""
        return grid_of(self.shape, PATCH)

    @property
    def size(self) -> int:
        """Length of a whole sequence."""
        return self.shape[self.axis]

    @property
    def features(self) -> int:
        """Numbers of one step of a sequence."""
        return 2 * self.shape[1 - self.axis]

    @property
    def antennas(self) -> int:
        """Sequences of a sample."""
        return self.shape[2]

    @property
    def history(self) -> int:
        """Steps that are known."""
        return self.size - self.future

    @property
    def future(self) -> int:
        """Steps that are predicted."""
        if self.direction == "backward":
            return PATCH[self.axis] * (self.grid[self.axis] - self._kept)
        return max(self.size - PATCH[self.axis] * self._kept, 0)

    @property
    def _kept(self) -> int:
        """Known blocks along the axis."""
        _, slots, subcarriers = kept_blocks(torch.tensor(self.grid, device="cpu"), MaskRatios())
        return int((slots, subcarriers)[self.axis])

    def masked(self) -> Tensor:
        """Tokens that are predicted, bool [L]."""
        blocks = torch.arange(self.grid[self.axis])
        hidden = self.grid[self.axis] - self._kept
        chosen = blocks < hidden if self.direction == "backward" else blocks >= self._kept
        shape = [1, 1, 1]
        shape[self.axis] = -1
        return chosen.view(shape).expand(self.grid).reshape(-1)

    def cut_history(self, tokens: Tensor) -> Tensor:
        """Known steps [B * A, history, features] of tokens [B, L, 128]."""
        slots, subcarriers, antennas = self.shape
        channels = unpatch(tokens, self.grid, PATCH)[:, :slots, :subcarriers, :antennas]
        known = channels.narrow(1 + self.axis, self.future if self.direction == "backward" else 0, self.history)
        order = "b t k a -> (b a) t k" if self.task == "time" else "b t k a -> (b a) k t"
        return torch.view_as_real(rearrange(known, order)).flatten(-2)

    def place_future(self, predicted: Tensor) -> Tensor:
        """Tokens float32 [B, L, 128] of predicted steps [B * A, future, features]; zero where nothing is predicted."""
        steps = torch.complex(predicted[..., 0::2].float(), predicted[..., 1::2].float())
        order = "(b a) t k -> b t k a" if self.task == "time" else "(b a) k t -> b t k a"
        channels = rearrange(steps, order, a=self.antennas)
        behind = [blocks * width - size for blocks, width, size in zip(self.grid, PATCH, self.shape, strict=True)]
        gaps = [(0, gap) for gap in behind]
        before, after = (0, self.history) if self.direction == "backward" else (self.history, 0)
        gaps[self.axis] = (before, after + behind[self.axis])
        # torch counts axes from the last one.
        return repatch(functional.pad(channels, [size for pair in reversed(gaps) for size in pair]), PATCH)
