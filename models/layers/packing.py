"""Packed batches: samples laid end to end, and the sequences that attention runs over."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interface import PackedBatch, Tokens


def pack(parts: Sequence[Tokens], keys: NDArray[np.int64], weight: NDArray[np.float32], variant: int) -> PackedBatch:
    """Lay patched samples end to end, in order. keys, weight: [B] with B the samples of all parts together."""
    width = parts[0].values.shape[2]
    partial = any(part.elements is not None for part in parts)
    elements = np.concatenate([_elements(part) for part in parts]) if partial else None
    return PackedBatch(
        tokens=torch.from_numpy(np.concatenate([part.values.reshape(-1, width) for part in parts])),
        elements=None if elements is None else torch.from_numpy(elements),
        grid=torch.from_numpy(
            np.concatenate([np.tile(np.asarray(part.grid, np.int64), (len(part.values), 1)) for part in parts])
        ),
        grids=tuple((part.grid, len(part.values)) for part in parts),
        keys=torch.from_numpy(np.ascontiguousarray(keys, np.int64)),
        weight=torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
        variant=variant,
    )


def _elements(part: Tokens) -> NDArray[np.bool_]:
    count, length, width = part.values.shape
    if part.elements is None:
        return np.ones((count * length, width), np.bool_)
    return np.tile(part.elements, (count, 1))


def members(counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Group, and index within the group, of every row of groups laid end to end, int64 [total] each.

    counts: int64 [groups], rows of each; total: their sum, given so that it need not be read from the device.
    """
    group = torch.repeat_interleave(counts, output_size=total)
    index = torch.arange(total, device=counts.device) - (counts.cumsum(0) - counts)[group]
    return group, index


@dataclass(frozen=True, slots=True)
class Layout:
    """Which samples the N tokens of a packed batch belong to.

    sample, index: int64 [N], sample of each token and its index within it. starts, lengths: int64 [B], first token of
    each sample and its tokens. longest: tokens of the longest sample.
    """

    sample: Tensor
    index: Tensor
    starts: Tensor
    lengths: Tensor
    longest: int

    @classmethod
    def of(cls, batch: PackedBatch) -> "Layout":
        """Of the tokens of a batch."""
        lengths = batch.grid.prod(1)
        sample, index = members(lengths, len(batch.tokens))
        longest = max(math.prod(grid) for grid, _ in batch.grids)
        return cls(sample=sample, index=index, starts=lengths.cumsum(0) - lengths, lengths=lengths, longest=longest)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, width], one a token, as [B, longest, width] with zeros behind a sample's last; bool [B, longest]."""
        valid = torch.arange(self.longest, device=rows.device) < self.lengths[:, None]
        empty = rows.new_zeros(*valid.shape, rows.shape[1])
        return empty.index_put((self.sample, self.index), rows), valid

    def by_score(self, scores: Tensor) -> Tensor:
        """Int64 [N], the tokens of every sample in turn, each sample's in ascending order of scores [N]."""
        order = scores.argsort()
        return order[self.sample[order].argsort(stable=True)]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences laid end to end, shortest first: those of equal length are neighbours.

    runs: (sequences, length) of every distinct length in ascending order, on the host. order: int64 [S], which sequence
    as given is the s-th laid. offsets: int32 [S + 1], first row of each and the end.
    """

    runs: tuple[tuple[int, int], ...]
    order: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Tensor, counts: Mapping[int, int]) -> "Sequences":
        """Of lengths int64 [S], none of them zero; counts: how many have each length, known on the host."""
        order = lengths.argsort(stable=True)
        ends = lengths[order].cumsum(0).int()
        runs = tuple((counts[length], length) for length in sorted(counts))
        return cls(runs=runs, order=order, offsets=torch.cat([ends.new_zeros(1), ends]))

    @property
    def rows(self) -> int:
        """Tokens of all sequences."""
        return sum(count * length for count, length in self.runs)

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return self.runs[-1][1]

    def members(self) -> tuple[Tensor, Tensor]:
        """Sequence as given, and index within it, of every row: int64 [rows] each."""
        sequence, index = members(self.offsets.diff().long(), self.rows)
        return self.order[sequence], index

    def first_rows(self) -> Tensor:
        """First row of each sequence as given: int64 [S]."""
        return torch.empty_like(self.order).scatter(0, self.order, self.offsets[:-1].long())
