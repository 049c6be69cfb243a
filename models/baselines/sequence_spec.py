"""Options and counts that models of sequences share: made for one scale, one task, one target set."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channels.errors import UserError
from models.baselines.halves import PATCH, Direction, Halves, Task
from models.interface import EvaluationTask, Shape, TokenBatch, Tokens
from models.layers.patches import Grid, grid_of, make_patches, patch_tensor
from models.references import Reference, predict_reference

VARIANT = 4
"""The one granularity: tokens are HeterCSI's patches of 4 x 4 x 4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceSpec:
    """task: which axis is predicted. direction: ``backward`` from the second part to the first. slots, subcarriers,
    antennas: the scale (T, K, A) of all its samples; left out they are those of the job's target set.
    """

    NAME: ClassVar[str]
    MULTIPLE: ClassVar[int] = 1
    """Of which the known steps must be a multiple."""

    task: Task = "time"
    direction: Direction = "forward"
    slots: int | None = None
    subcarriers: int | None = None
    antennas: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for an axis shorter than 1."""
        self.check_positive("slots", "subcarriers", "antennas")

    def check_positive(self, *names: str) -> None:
        """Raises UserError for an option below 1 (None is none)."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{value!r} is below 1", where=f"model.{name}", mend="give at least 1")

    @property
    def name(self) -> str:
        """In the registry."""
        return self.NAME

    @property
    def halves(self) -> Halves:
        """What is known and what is predicted. Raises UserError where the scale is not known."""
        slots, subcarriers, antennas = self.slots, self.subcarriers, self.antennas
        if slots is None or subcarriers is None or antennas is None:
            mend = "name the set it is trained on in data.target, or give slots, subcarriers and antennas"
            raise UserError(f"{self.name} is made for one scale, and does not know it", where="model", mend=mend)
        halves = Halves((slots, subcarriers, antennas), self.task, self.direction)
        if halves.history % self.MULTIPLE:
            what = f"{self.name} cannot take a history of {halves.history} steps"
            raise UserError(what, where="model", mend=f"it is to be a multiple of {self.MULTIPLE}")
        return halves

    @property
    def variants(self) -> tuple[int, ...]:
        """One granularity: patches of 4 x 4 x 4."""
        return (VARIANT,)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task; backwards it has a name of its own, because other elements are predicted."""
        return (self.task if self.direction == "forward" else f"{self.task}_backward",)

    @property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """The task of training."""
        return tuple(EvaluationTask(name=task, variant=VARIANT) for task in self.tasks)

    def samples_per_stored(self, shape: Shape) -> int:
        """One training sample for each stored one."""
        return 1

    def length(self, shape: Shape, variant: int) -> int:
        """Tokens of a sample. Raises UserError for another scale than that it is made for."""
        slots, subcarriers, antennas = self.grid(shape, variant)
        return slots * subcarriers * antennas

    def target_tokens(self, shape: Shape, variant: int) -> tuple[int, ...]:
        """Predicted tokens of a sample."""
        self._check(shape, variant)
        return (int(self.halves.masked().sum()),)

    def reference(self, name: Reference, task: EvaluationTask, batch: TokenBatch, masked: Tensor) -> Tensor:
        """Training-free prediction of masked tokens [B, L, 128]."""
        return predict_reference(name, self.task, batch, masked, PATCH)

    def tokenise(self, channels: NDArray[np.complex64], variant: int) -> Tokens:
        """Patches [n, L, 128] of channels [n, T, K, A]."""
        tokens = make_patches(channels, PATCH)
        self._check(channels.shape[1:], variant)
        return tokens

    def grid(self, shape: Shape, variant: int) -> Grid:
        """Blocks of 4 x 4 x 4."""
        self._check(shape, variant)
        return grid_of(shape, PATCH)

    def patch(self, channels: Tensor, variant: int) -> Tensor:
        """Patches [n, L, 128] of channels on any device."""
        self._check(tuple(channels.shape[1:]), variant)
        return patch_tensor(channels, PATCH)

    @property
    def packs(self) -> bool:
        """Only padded batches; samples of one scale have no padding."""
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

    def _check(self, shape: tuple[int, ...], variant: int) -> None:
        if variant != VARIANT:
            raise UserError(f"{self.name} has no granularity {variant!r}", mend=f"it has {VARIANT}")
        if tuple(shape) != self.halves.shape:
            own, other = (" x ".join(map(str, scale)) for scale in (self.halves.shape, shape))
            what = f"{self.name} is made for {own} slots x subcarriers x antennas, not for {other}"
            raise UserError(what, mend="train one for each scale (data.target)")


def check_heads(width: int, heads: int, published: str) -> None:
    """Raises UserError for a width that heads or pairs of positions do not divide."""
    if width % heads or width % 2:
        mend = f"published: {published}"
        raise UserError(f"{width} is odd, or no multiple of {heads} heads", where="model.width", mend=mend)


def check_dropout(dropout: float, published: float) -> None:
    """Raises UserError for a dropout outside [0, 1)."""
    if not 0 <= dropout < 1:
        mend = f"published: {published:g}"
        raise UserError(f"{dropout!r} is not a share of [0, 1)", where="model.dropout", mend=mend)
