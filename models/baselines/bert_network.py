"""BERT4MIMO's network: rows and their positions through BERT's layers, back to rows."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.interface import MaskDraw, PackedBatch, Prediction, PretrainingModel, TokenBatch
from models.layers.attention import BERT_NORM_EPS, PostNormBlock
from models.layers.losses import token_losses
from models.layers.masking import MaskRatios, host_grids, make_view
from models.layers.padded_attention import RowKeys
from models.layers.parameters import numbered

Rows = Literal["hidden", "all"]
DEVIATION = 0.02
"""Of BERT's first weights."""


@dataclass(frozen=True, slots=True)
class BertSize:
    """Dimensions of the network; network: inner features of a block. positions: most rows."""

    width: int
    depth: int
    heads: int
    network: int
    positions: int


class BertNetwork(PretrainingModel):
    """features: numbers of a row. rows: which of them count in the loss and are scored."""

    def __init__(self, features: int, size: BertSize, ratios: MaskRatios, rows: Rows, dropout: float) -> None:
        super().__init__()
        self.ratios, self.rows = ratios, rows
        self.embedding = nn.Linear(features, size.width)
        self.subcarriers = nn.Embedding(size.positions, size.width)
        self.positions = nn.Embedding(size.positions, size.width)
        self.norm = nn.LayerNorm(size.width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        blocks = (PostNormBlock(size.width, size.heads, size.network, dropout) for _ in range(size.depth))
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Linear(size.width, features)
        nn.init.normal_(self.positions.weight, std=DEVIATION)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Loss sum float32 [1]; see ``PretrainingModel``."""
        prediction = self._reconstruct(batch, draw)
        losses = token_losses(prediction.values, _padded(batch)).where(prediction.masked, 0)
        return (losses.sum(dim=1) * batch.task_weights).sum().reshape(1)

    def predict(self, batch: TokenBatch | PackedBatch, task: str, seed: int) -> Prediction:
        """Predictions of the rows that are scored, masks as of epoch 0. Raises UserError for another task."""
        if task != "reconstruction":
            raise UserError(f"bert4mimo has no task {task!r}", mend="it has reconstruction")
        return self._reconstruct(batch, MaskDraw(seed=seed, epoch=0))

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Embeddings, blocks, output."""
        inner = numbered("blocks", len(self.blocks))
        return (("embedding", "subcarriers", "positions", "norm"), *inner, ("output",))

    def _reconstruct(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Prediction:
        batch = _padded(batch)
        view = make_view("reconstruction", batch, draw, self.ratios)
        values = self._rows(batch.tokens.masked_fill(view.masked[..., None], 0), _present(batch))
        valid = torch.arange(values.shape[1], device=values.device) < batch.lengths[:, None]
        return Prediction(values=values, masked=valid if self.rows == "all" else view.masked)

    def _rows(self, rows: Tensor, present: Tensor | None) -> Tensor:
        """Predicted rows float32 [B, K, 2 A] of rows [B, K, 2 A]; present: bool [B, K], None for all."""
        index = torch.arange(rows.shape[1], device=rows.device)
        embedded = self.embedding(rows.to(self.embedding.weight.dtype)) + self.subcarriers(index)
        states = self.dropout(self.norm(embedded + self.positions(index)))
        keys = None if present is None else RowKeys.of(present)
        for block in self.blocks:
            states = block(states, keys)
        return cast(Tensor, self.output(states)).float()


def _padded(batch: TokenBatch | PackedBatch) -> TokenBatch:
    assert isinstance(batch, TokenBatch), "the data refuse packed batches of this model"
    return batch


def _present(batch: TokenBatch) -> Tensor | None:
    """Bool [B, K], None where no row is padding."""
    longest = batch.tokens.shape[1]
    if all(math.prod(grid) == longest for grid in host_grids(batch)):
        return None
    return torch.arange(longest, device=batch.tokens.device) < batch.lengths[:, None]
