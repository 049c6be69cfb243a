"""Which tokens of a packed batch are kept and asked, for all tasks at once: the masks of ``models.layers.masking``.

Sizes come from the host's knowledge of the grids, so nothing waits for the device.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.interface import MaskDraw, PackedBatch
from models.layers.masking import TASKS, MaskRatios, hash_packed_tokens, kept_blocks, kept_tokens
from models.layers.packing import Places, Sequences, members


@dataclass(frozen=True, slots=True)
class PackedViews:
    """The views of a packed batch in one pass; a sequence is one sample in one view, V * B in all.

    encoder, decoder: the sequences of kept tokens and of all tokens. kept: int64 [encoder rows], token of each encoder
    row. laid: int64 [decoder rows], token of each decoder row. filled: int64 [encoder rows], decoder row that each
    encoder row goes to. asked: int64 [Q], tokens to be predicted, view by view; asked_rows: int64 [Q], their decoder
    rows; asked_counts: how many each view has.
    """

    places: Places
    encoder: Sequences
    decoder: Sequences
    kept: Tensor
    laid: Tensor
    filled: Tensor
    asked: Tensor
    asked_rows: Tensor
    asked_counts: tuple[int, ...]


def packed_views(tasks: Sequence[str], batch: PackedBatch, draw: MaskDraw, ratios: MaskRatios) -> PackedViews:
    """The masks of some of ``TASKS`` on a batch."""
    columns = [TASKS.index(task) for task in tasks]
    lengths = batch.grid.prod(1)
    places = Places.of(batch)
    counts = kept_tokens(batch.grid, ratios)[:, columns].T.flatten()
    kept_on_host, asked_on_host = _host_counts(batch, columns, ratios)
    encoder = Sequences.of(counts, kept_on_host)
    decoder = Sequences.of(lengths.repeat(len(tasks)), _host_lengths(batch, len(tasks)))
    orders = torch.cat([token_order(task, batch, places, draw, ratios) for task in tasks])
    first_of = places.starts.repeat(len(tasks))
    into_orders = first_of + torch.arange(len(tasks), device=counts.device).repeat_interleave(
        len(lengths), output_size=len(counts)
    ) * len(batch.tokens)

    sequence, rank = encoder.members()
    kept = orders[into_orders[sequence] + rank]
    first_rows = decoder.first_rows()
    filled = first_rows[sequence] + places.index[kept]
    laid_sequence, laid_rank = decoder.members()
    asked_sequence, asked_rank = members(lengths.repeat(len(tasks)) - counts, sum(asked_on_host))
    asked = orders[(into_orders + counts)[asked_sequence] + asked_rank]
    return PackedViews(
        places=places,
        encoder=encoder,
        decoder=decoder,
        kept=kept,
        laid=first_of[laid_sequence] + laid_rank,
        filled=filled,
        asked=asked,
        asked_rows=first_rows[asked_sequence] + places.index[asked],
        asked_counts=asked_on_host,
    )


def token_order(task: str, batch: PackedBatch, places: Places, draw: MaskDraw, ratios: MaskRatios) -> Tensor:
    """Int64 [N], the tokens of every sample in turn, those that one of ``TASKS`` keeps before the others."""
    if task == "time":
        return torch.arange(len(batch.tokens), device=batch.grid.device)
    if task == "frequency":
        return places.starts[places.sample] + _subcarriers_first(batch, places, ratios)
    assert task == "reconstruction", task
    return places.by_score(hash_packed_tokens(batch.keys, places.sample, places.index, draw))


def _subcarriers_first(batch: PackedBatch, places: Places, ratios: MaskRatios) -> Tensor:
    """Index within its sample, int64 [N], of the i-th token when those of the lower, kept subcarriers come first."""
    slots, subcarriers, antennas = batch.grid.unbind(1)
    low = kept_blocks(batch.grid, ratios)[2] * antennas
    row, low, kept = ((column[places.sample]) for column in (subcarriers * antennas, low, slots * low))
    is_kept = places.index < kept
    rank = torch.where(is_kept, places.index, places.index - kept)
    width = torch.where(is_kept, low, row - low).clamp(min=1)
    return rank // width * row + rank % width + torch.where(is_kept, 0, low)


def _host_lengths(batch: PackedBatch, views: int) -> Counter[int]:
    """Sequences of each length in all views."""
    found: Counter[int] = Counter()
    for grid, count in batch.grids:
        found[math.prod(grid)] += views * count
    return found


def _host_counts(
    batch: PackedBatch, columns: Sequence[int], ratios: MaskRatios
) -> tuple[Counter[int], tuple[int, ...]]:
    """Sequences by the number of tokens they keep, and the tokens asked in each view."""
    kept = kept_tokens(torch.tensor([grid for grid, _ in batch.grids]), ratios)[:, columns].tolist()
    found: Counter[int] = Counter()
    asked = [0] * len(columns)
    for (grid, count), row in zip(batch.grids, kept, strict=True):
        for view, some in enumerate(row):
            found[some] += count
            asked[view] += count * (math.prod(grid) - some)
    return found, tuple(asked)
