"""The frame around a backbone for single snapshots: embedding, backbone, head, and the loss of masked tokens."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.interface import Embedding, EvaluationTask, MaskDraw, PackedBatch, Prediction, PretrainingModel, TokenBatch
from models.layers.losses import token_losses
from models.layers.masking import host_grids
from models.layers.packing import Layout, Sequences
from models.layers.parameters import numbered
from models.snapshot.masking import Masked, hide_tokens, mask_tokens
from models.snapshot.patches import patch_matrices
from models.snapshot.spec import SnapshotSpec


class SnapshotModel(PretrainingModel):
    """Masked reconstruction of snapshots around any backbone.

    The backbone maps vectors [B, 1 + L, width] and the number of valid ones (int64 [B], None where all are) to vectors
    of the same shape; padding must not reach valid vectors. Where the specification packs, it also maps
    vectors [rows, width] and their ``Sequences``. Embedding and head hold their affine maps in ``maps``, by patch side.
    """

    def __init__(self, spec: SnapshotSpec, embedding: nn.Module, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = embedding
        self.backbone = backbone
        self.head = head

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Loss sum float32 [1]; see ``PretrainingModel``."""
        masked = mask_tokens(batch, draw, self.spec.masking)
        errors = token_losses(self._reconstruct(batch, masked), batch).where(masked.masked, 0)
        if isinstance(batch, PackedBatch):
            loss = (errors * batch.task_weights[:, Layout.of(batch).sample]).sum()
        else:
            loss = (errors.sum(dim=1) * batch.task_weights).sum()
        return (loss + self._idle(batch.variant, loss)).reshape(1)

    def predict(self, batch: TokenBatch | PackedBatch, task: str, seed: int) -> Prediction:
        """Reconstruction of masked tokens, none of which shows itself. Raises UserError for a task it lacks."""
        if EvaluationTask(name=task, variant=batch.variant) not in self.spec.evaluation_tasks:
            known = ", ".join(known.name for known in self.spec.evaluation_tasks)
            raise UserError(f"no task {task!r} with patches of side {batch.variant}", mend=f"known: {known}")
        masked = hide_tokens(batch, seed, self.spec.masking)
        return Prediction(values=self._reconstruct(batch, masked), masked=masked.masked)

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Embedding, layers of the backbone, or all of it where it has none of that name, head."""
        blocks = getattr(self.backbone, "layers", None)
        inner = (("backbone",),) if blocks is None else numbered("backbone.layers", len(blocks))
        return (("embedding",), *inner, ("head",))

    def encode_tokens(self, tokens: Tensor, variant: int, lengths: Tensor | None = None) -> Tensor:
        """Vectors [B, 1 + L, width], the class token's first, of tokens [B, L, 2 p^2].

        lengths: int64 [B], valid tokens of a padded batch, class token not counted; None where all are valid.
        """
        embedded = self.embedding(tokens.to(self._dtype()), variant)
        return cast(Tensor, self.backbone(embedded, None if lengths is None else lengths + 1))

    def encode(self, batch: TokenBatch | PackedBatch) -> Embedding:
        """See ``PretrainingModel``."""
        if isinstance(batch, PackedBatch):
            return self._encode_packed(batch)
        padded = _is_padded(batch)
        vectors = self.encode_tokens(batch.tokens, batch.variant, batch.lengths if padded else None).float()
        valid = torch.arange(batch.tokens.shape[1], device=vectors.device) < batch.lengths[:, None]
        patches = vectors[:, 1:].where(valid[..., None], 0) if padded else vectors[:, 1:]
        return Embedding(self._class_token(vectors[:, 0]), patches, valid)

    def encoder_layers(self) -> Sequence[nn.Module]:
        """Those of the backbone."""
        return list(cast(nn.ModuleList, getattr(self.backbone, "layers", ())))

    def encode_channels(self, channels: Tensor, variant: int) -> Tensor:
        """Vectors [B, 1 + L, width], the class token's first, of complex64 channels [B, K, A] on the model's device.

        Channels are expected as in training, of unit power and finite; their values are not checked. Shapes depend on
        shapes only and nothing waits for the device, so a CUDA graph can capture it.

        Raises:
            UserError: a granularity it lacks, an empty axis.
        """
        self.spec.check_variant(variant)
        return self.encode_tokens(patch_matrices(channels, variant), variant)

    def _reconstruct(self, batch: TokenBatch | PackedBatch, masked: Masked) -> Tensor:
        """Float32 [B, L, D], or [N, D] of a packed batch."""
        if isinstance(batch, PackedBatch):
            return self._reconstruct_packed(batch, masked.tokens)
        encoded = self.encode_tokens(masked.tokens, batch.variant, batch.lengths if _is_padded(batch) else None)
        return cast(Tensor, self.head(encoded[:, 1:], batch.variant)).float()

    def _reconstruct_packed(self, batch: PackedBatch, tokens: Tensor) -> Tensor:
        layout = Layout.of(batch)
        encoded, first_rows = self._encode_rows(batch, tokens, layout)
        back = first_rows[layout.sample] + 1 + layout.index
        return cast(Tensor, self.head(encoded[back], batch.variant)).float()

    def _encode_packed(self, batch: PackedBatch) -> Embedding:
        layout = Layout.of(batch)
        encoded, first_rows = self._encode_rows(batch, batch.tokens, layout)
        patches, valid = layout.padded(encoded[first_rows[layout.sample] + 1 + layout.index].float())
        return Embedding(self._class_token(encoded[first_rows].float()), patches, valid)

    def _encode_rows(self, batch: PackedBatch, tokens: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Vectors [rows, width] of packed tokens [N, D] behind class tokens, and each sample's first row int64 [B]."""
        assert self.spec.packs, "the data refuse packed batches of other models"
        counts: Counter[int] = Counter()
        for grid, samples in batch.grids:
            counts[1 + math.prod(grid)] += samples
        sequences = Sequences.of(layout.lengths + 1, counts)
        sample, index = sequences.members()
        rows = tokens[layout.starts[sample] + (index - 1).clamp(min=0)].to(self._dtype())
        return self.backbone(self.embedding(rows, batch.variant, index), sequences), sequences.first_rows()

    def _class_token(self, vectors: Tensor) -> Tensor | None:
        """The vectors of class tokens [B, width], or None where the model has no class token of its own."""
        return vectors if self.spec.has_class_token else None

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _idle(self, side: int, loss: Tensor) -> Tensor | float:
        """Zero, as a function of the maps of other granularities: engines that reduce gradients expect one from each.

        The maps are called, not read, since an engine may gather their weights only for a call.
        """
        parts = (cast(nn.ModuleDict, part.maps) for part in (self.embedding, self.head))
        others = [cast(nn.Linear, linear) for maps in parts for name, linear in maps.items() if name != str(side)]
        nothing = (loss.new_zeros(1, linear.in_features, dtype=self._dtype()) for linear in others)
        return sum((linear(zeros).sum() * 0.0 for linear, zeros in zip(others, nothing, strict=True)), 0.0)


def _is_padded(batch: TokenBatch) -> bool:
    return any(math.prod(grid) != batch.tokens.shape[1] for grid in host_grids(batch))
