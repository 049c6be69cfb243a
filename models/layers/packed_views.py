"""Which tokens of a packed batch are kept and masked, for all tasks at once: the masks of ``models.layers.masking``.

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
from models.layers.packing import Layout, Sequences, members


@dataclass(frozen=True, slots=True)
class PackedViews:
    """The views of a packed batch in one pass; a sequence is one sample in one view, V * B in all.

    encoder, decoder: the sequences of kept tokens and of all tokens. decoded: int64 [decoder rows], token of each
    decoder row. kept: int64 [encoder rows], token of each encoder row; kept_rows: int64 [encoder rows], their decoder
    rows. masked: int64 [M], tokens to be predicted, view by view; masked_rows: int64 [M], their decoder rows;
    masked_counts: how many each view has.
    """

    layout: Layout
    encoder: Sequences
    decoder: Sequences
    decoded: Tensor
    kept: Tensor
    kept_rows: Tensor
    masked: Tensor
    masked_rows: Tensor
    masked_counts: tuple[int, ...]


def packed_views(tasks: Sequence[str], batch: PackedBatch, draw: MaskDraw, ratios: MaskRatios) -> PackedViews:
    """The masks of some of ``TASKS`` on a batch."""
    columns = [TASKS.index(task) for task in tasks]
    lengths = batch.grid.prod(1)
    layout = Layout.of(batch)
    kept_by_task = kept_tokens(batch.grid, ratios)
    # A list as an index would be copied to the device while the host waits.
    counts = torch.cat([kept_by_task[:, column] for column in columns])
    kept_on_host, masked_on_host = _host_counts(batch, columns, ratios)
    encoder = Sequences.of(counts, kept_on_host)
    decoder = Sequences.of(lengths.repeat(len(tasks)), _host_lengths(batch, len(tasks)))
    orders = torch.cat([token_order(task, batch, layout, draw, ratios) for task in tasks])
    first_of = layout.starts.repeat(len(tasks))
    into_orders = first_of + torch.arange(len(tasks), device=counts.device).repeat_interleave(
        len(lengths), output_size=len(counts)
    ) * len(batch.tokens)

    sequence, rank = encoder.members()
    kept = orders[into_orders[sequence] + rank]
    first_rows = decoder.first_rows()
    decoder_sequence, decoder_rank = decoder.members()
    masked_sequence, masked_rank = members(lengths.repeat(len(tasks)) - counts, sum(masked_on_host))
    masked = orders[(into_orders + counts)[masked_sequence] + masked_rank]
    return PackedViews(
        layout=layout,
        encoder=encoder,
        decoder=decoder,
        decoded=first_of[decoder_sequence] + decoder_rank,
        kept=kept,
        kept_rows=first_rows[sequence] + layout.index[kept],
        masked=masked,
        masked_rows=first_rows[masked_sequence] + layout.index[masked],
        masked_counts=masked_on_host,
    )


def token_order(task: str, batch: PackedBatch, layout: Layout, draw: MaskDraw, ratios: MaskRatios) -> Tensor:
    """Int64 [N], the tokens of every sample in turn, those that one of ``TASKS`` keeps before the others."""
    if task == "time":
        return torch.arange(len(batch.tokens), device=batch.grid.device)
    if task == "frequency":
        return layout.starts[layout.sample] + _subcarriers_first(batch, layout, ratios)
    assert task == "reconstruction", task
    return layout.by_score(hash_packed_tokens(batch.keys, layout.sample, layout.index, draw))


def _subcarriers_first(batch: PackedBatch, layout: Layout, ratios: MaskRatios) -> Tensor:
    """Index within its sample, int64 [N], of the i-th token when those of the lower, kept subcarriers come first."""
    slots, subcarriers, antennas = batch.grid.unbind(1)
    low = kept_blocks(batch.grid, ratios)[2] * antennas
    row, low, kept = ((column[layout.sample]) for column in (subcarriers * antennas, low, slots * low))
    is_kept = layout.index < kept
    rank = torch.where(is_kept, layout.index, layout.index - kept)
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
    """Sequences by the number of tokens they keep, and the tokens masked in each view."""
    kept = kept_tokens(torch.tensor([grid for grid, _ in batch.grids]), ratios)[:, columns].tolist()
    found: Counter[int] = Counter()
    masked = [0] * len(columns)
    for (grid, count), row in zip(batch.grids, kept, strict=True):
        for view, some in enumerate(row):
            found[some] += count
            masked[view] += count * (math.prod(grid) - some)
    return found, tuple(masked)
