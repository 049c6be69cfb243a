"""Samples as they are stored, of which the device makes a batch: normalised, augmented, noisy, patched, then padded or
laid end to end.

A GPU draws the noise of a batch while a thread of the host would still compute its first sample. The host reads, checks
and hands over; everything else happens behind the transfer, in the device's own order, and nothing waits for it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.interface import ModelSpec, PackedBatch, Shape, TokenBatch
from models.layers.packing import members
from orchestrator.data.device_signal import NormalTables, Runs, add_noise, augment, unit_power

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive samples of one scale. rows: of the planar array."""

    shape: Shape
    rows: int
    grid: Grid
    samples: int

    @property
    def tokens(self) -> int:
        """Of one sample."""
        return math.prod(self.grid)

    @property
    def array_shape(self) -> tuple[int, int, int, int, int]:
        """Samples, slots, subcarriers, columns and rows."""
        slots, subcarriers, antennas = self.shape
        return self.samples, slots, subcarriers, antennas // self.rows, self.rows


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a device makes batches: for which model, with how much noise (None: none), padded or packed."""

    spec: ModelSpec
    packed: bool
    snr_db: float | None
    tables: NormalTables | None
    """On the device; None where there is no noise."""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Samples of one variant at physical scale, end to end in the order of ``parts``; all tensors on one device.

    channels: float32 [elements, 2], real and imaginary parts. states: int64 [B], from which the noise is drawn. counts:
    int64 [B], elements of each sample. turns, flips: of ``channels.augment.AugmentationDraws``, None where nothing is
    drawn. grid, keys, weight, task_weight: as of ``TokenBatch``.
    """

    channels: Tensor
    parts: tuple[Part, ...]
    counts: Tensor
    states: Tensor
    turns: Tensor | None
    flips: Tensor | None
    grid: Tensor
    keys: Tensor
    weight: Tensor
    task_weight: Tensor | None
    variant: int
    preparation: Preparation

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StoredBatch":
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "StoredBatch":
        """The same in page-locked memory; what lies there already stays."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "StoredBatch":
        return replace(
            self,
            channels=change(self.channels),
            counts=change(self.counts),
            states=change(self.states),
            turns=None if self.turns is None else change(self.turns),
            flips=None if self.flips is None else change(self.flips),
            grid=change(self.grid),
            keys=change(self.keys),
            weight=change(self.weight),
            task_weight=None if self.task_weight is None else change(self.task_weight),
        )

    def prepared(self) -> TokenBatch | PackedBatch:
        """The batch that ``TrainingData.batch`` makes of the same samples on the host, on this device."""
        values = self._tokens(self._signal())
        marks = [self._elements(part, value.shape[2]) for part, value in zip(self.parts, values, strict=True)]
        return self._packed(values, marks) if self.preparation.packed else self._padded(values, marks)

    def _signal(self) -> Tensor:
        """Normalised, augmented, noisy parts float32 [elements, 2]."""
        how = self.preparation
        runs = Runs(tuple((part.samples, math.prod(part.shape)) for part in self.parts))
        sample, index = members(self.counts, runs.elements)
        parts = unit_power(self.channels, sample, runs)
        if self.turns is not None or self.flips is not None:
            parts = augment(parts, [part.array_shape for part in self.parts], self.turns, self.flips)
        if how.snr_db is None:
            return parts
        assert how.tables is not None
        return add_noise(parts, sample, index, runs, how.snr_db, self.states, how.tables)

    def _tokens(self, signal: Tensor) -> list[Tensor]:
        """Values [n, L, D] of each part."""
        sizes = [part.samples * math.prod(part.shape) for part in self.parts]
        pieces = torch.split(torch.view_as_complex(signal), sizes)
        return [
            self.preparation.spec.patch(piece.view(part.samples, *part.shape), self.variant)
            for piece, part in zip(pieces, self.parts, strict=True)
        ]

    def _elements(self, part: Part, width: int) -> Tensor | None:
        """Bool [L, D], False for filled elements; None where a part has none. width: D."""
        if part.tokens * width == 2 * math.prod(part.shape):
            return None
        ones = torch.full((1, *part.shape), 1 + 1j, dtype=torch.complex64, device=self.channels.device)
        return self.preparation.spec.patch(ones, self.variant)[0] != 0

    def _padded(self, values: list[Tensor], marks: list[Tensor | None]) -> TokenBatch:
        longest, width = max(part.tokens for part in self.parts), values[0].shape[2]
        tokens, elements = values[0], None
        if any(part.tokens < longest for part in self.parts):
            tokens = self.channels.new_zeros(len(self.keys), longest, width)
            for rows, part, value in zip(self._rows(tokens), self.parts, values, strict=True):
                rows[:, : part.tokens] = value
        elif len(values) > 1:
            tokens = torch.cat(values)
        if any(mark is not None for mark in marks):
            elements = torch.zeros_like(tokens, dtype=torch.bool)
            for rows, part, mark in zip(self._rows(elements), self.parts, marks, strict=True):
                rows[:, : part.tokens] = True if mark is None else mark
        return TokenBatch(
            tokens=tokens,
            elements=elements,
            lengths=self.grid.prod(1),
            grid=self.grid,
            keys=self.keys,
            weight=self.weight,
            variant=self.variant,
            grids=tuple(sorted({part.grid for part in self.parts})),
            task_weight=self.task_weight,
        )

    def _rows(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return torch.split(tensor, [part.samples for part in self.parts])

    def _packed(self, values: list[Tensor], marks: list[Tensor | None]) -> PackedBatch:
        tokens, elements = torch.cat([value.flatten(0, 1) for value in values]), None
        if any(mark is not None for mark in marks):
            elements = torch.ones_like(tokens, dtype=torch.bool)
            pieces = torch.split(elements, [part.samples * part.tokens for part in self.parts])
            for piece, part, mark in zip(pieces, self.parts, marks, strict=True):
                if mark is not None:
                    piece.view(part.samples, *mark.shape)[:] = mark
        return PackedBatch(
            tokens=tokens,
            elements=elements,
            grid=self.grid,
            grids=tuple((part.grid, part.samples) for part in self.parts),
            keys=self.keys,
            weight=self.weight,
            variant=self.variant,
            task_weight=self.task_weight,
        )
