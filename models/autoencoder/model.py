"""A masked auto-encoder over 3-D patches of space-time-frequency channels of any scale.

Architecture and masks are those of HeterCSI and WiFo, which differ in sizes, positions and the scale of the loss.
Unlike in their published code, a sample's prediction does not depend on the batch it is in: the encoder sees its kept
tokens only, whatever the padding.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from channels.errors import UserError
from models.autoencoder.sizes import TOKEN_WIDTH, Size
from models.interface import Embedding, MaskDraw, PackedBatch, Prediction, PretrainingModel, TokenBatch
from models.layers.attention import Stack
from models.layers.losses import mean_squared_errors, token_losses
from models.layers.masking import TASKS, MaskRatios, View, host_grids, make_view
from models.layers.packed_views import PackedViews, packed_views
from models.layers.packing import Layout, Sequences
from models.layers.parameters import numbered
from models.layers.positions import Kind, token_blocks, token_positions
from models.layers.rotary import Rotation


class MaskedAutoencoder(PretrainingModel):
    """The network: an encoder over kept tokens, a decoder over all tokens."""

    def __init__(self, size: Size, position: Kind, ratios: MaskRatios) -> None:
        super().__init__()
        self.position = position
        self.ratios = ratios
        encoder, decoder = size.encoder, size.decoder
        self.patch_embedding = nn.Linear(TOKEN_WIDTH, encoder.width)
        rotary = position == "rotary"
        self.encoder = Stack(encoder.width, encoder.depth, encoder.heads, encoder.expansion, rotary)
        self.decoder_embedding = nn.Linear(encoder.width, decoder.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder.width))
        self.decoder = Stack(decoder.width, decoder.depth, decoder.heads, decoder.expansion, rotary)
        self.head = nn.Linear(decoder.width, TOKEN_WIDTH)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
        """Loss sums float32 [3], one a task; see ``PretrainingModel``."""
        if isinstance(batch, PackedBatch):
            return self._packed_losses(batch, packed_views(TASKS, batch, draw, self.ratios))
        views = self._views(batch, TASKS, draw)
        losses = token_losses(self._predict_views(batch, views), batch)
        masked = torch.stack([view.masked for view in views.values()])
        return (losses.where(masked, 0).sum(dim=2) * batch.task_weights).sum(dim=1)

    def predict(self, batch: TokenBatch | PackedBatch, task: str, seed: int) -> Prediction:
        """Predictions of one task, masks as of epoch 0. Raises UserError for a task it lacks."""
        if task not in TASKS:
            raise UserError(f"there is no task {task!r}", mend=f"it has {', '.join(TASKS)}")
        draw = MaskDraw(seed=seed, epoch=0)
        if isinstance(batch, PackedBatch):
            return self._packed_prediction(batch, packed_views((task,), batch, draw, self.ratios))
        views = self._views(batch, (task,), draw)
        return Prediction(values=self._predict_views(batch, views)[0], masked=views[task].masked)

    def encode(self, batch: TokenBatch | PackedBatch) -> Embedding:
        """See ``PretrainingModel``. There is no class token; the encoder sees all tokens, none masked."""
        dtype = self.patch_embedding.weight.dtype
        embedded = self.patch_embedding(batch.tokens.to(dtype))
        if isinstance(batch, PackedBatch):
            return self._encode_packed(batch, embedded)
        longest = batch.tokens.shape[1]
        index = torch.arange(longest, device=embedded.device)[None]
        embedded, rotation = self._placed(self.encoder, embedded, index, batch.grid, longest)
        valid = (index < batch.lengths[:, None]).expand(len(embedded), -1)
        padded = any(math.prod(grid) != longest for grid in host_grids(batch))
        encoded = self.encoder(embedded, valid if padded else None, rotation).float()
        return Embedding(None, encoded.where(valid[..., None], 0) if padded else encoded, valid)

    def encoder_layers(self) -> Sequence[nn.Module]:
        """The blocks of the encoder."""
        return list(self.encoder.blocks)

    def _encode_packed(self, batch: PackedBatch, embedded: Tensor) -> Embedding:
        layout = Layout.of(batch)
        counts: Counter[int] = Counter()
        for grid, samples in batch.grids:
            counts[math.prod(grid)] += samples
        sequences = Sequences.of(layout.lengths, counts)
        sample, index = sequences.members()
        rows = layout.starts[sample] + index
        embedded, rotation = self._placed_packed(self.encoder, embedded[rows], batch, layout, rows)
        encoded = self.encoder(embedded, sequences, rotation)
        back = sequences.first_rows()[layout.sample] + layout.index
        return Embedding(None, *layout.padded(encoded[back].float()))

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Embedding, blocks of the encoder, what leads to the decoder, its blocks, head.

        The frequencies of a stack, which all of its blocks share, are with what comes before the first one.
        """
        return (
            ("patch_embedding", "encoder.rotary"),
            *numbered("encoder.blocks", len(self.encoder.blocks)),
            ("encoder.norm", "decoder_embedding", "mask_token", "decoder.rotary"),
            *numbered("decoder.blocks", len(self.decoder.blocks)),
            ("decoder.norm", "head"),
        )

    def encoder_index(self, task: str, index: Tensor, grid: Tensor) -> Tensor:
        """Tokens whose positions the encoder's tokens have in a task: themselves.

        index: int64 [B, n], tokens of samples of grids int64 [B, 3]; a result of the same shape.
        """
        return index

    def _views(self, batch: TokenBatch, tasks: Sequence[str], draw: MaskDraw) -> dict[str, View]:
        return {task: make_view(task, batch, draw, self.ratios) for task in tasks}

    def _predict_views(self, batch: TokenBatch, views: Mapping[str, View]) -> Tensor:
        """Predicted tokens float32 [views, B, L, D]; the decoder runs once over the samples of all views."""
        tokens = batch.tokens.to(self.patch_embedding.weight.dtype)
        states = torch.stack([self._encode(tokens, batch.grid, task, view) for task, view in views.items()])
        return self._decode(states, batch).float()

    def _encode(self, tokens: Tensor, grid: Tensor, task: str, view: View) -> Tensor:
        """Decoder inputs [B, L, decoder width] without positions: encoded tokens where kept, else mask tokens."""
        longest = tokens.shape[1]
        embedded = self.patch_embedding(tokens.gather(1, view.kept[..., None].expand(-1, -1, tokens.shape[2])))
        index = self.encoder_index(task, view.kept, grid)
        embedded, rotation = self._placed(self.encoder, embedded, index, grid, longest)
        encoded = self.decoder_embedding(self.encoder(embedded, view.present, rotation))
        mask_token = self.mask_token.to(encoded.dtype)
        if view.present is not None:
            encoded = torch.where(view.present[..., None], encoded, mask_token)
        index = view.kept[..., None].expand_as(encoded)
        return mask_token.expand(len(tokens), longest, -1).scatter(1, index, encoded)

    def _decode(self, states: Tensor, batch: TokenBatch) -> Tensor:
        """Predicted tokens [views, B, L, D] of decoder inputs [views, B, L, width]."""
        views, _, longest, _ = states.shape
        index = torch.arange(longest, device=states.device)[None]
        states, rotation = self._placed(self.decoder, states, index, batch.grid, longest)
        padded = any(math.prod(grid) != longest for grid in host_grids(batch))
        key_mask = (index < batch.lengths[:, None]).repeat(views, 1) if padded else None
        decoded = self.decoder(states.flatten(0, 1), key_mask, rotation and rotation.repeated(views))
        return cast(Tensor, self.head(decoded).unflatten(0, states.shape[:2]))

    def _placed(
        self, stack: Stack, tokens: Tensor, index: Tensor, grid: Tensor, longest: int
    ) -> tuple[Tensor, Rotation | None]:
        """Tokens [..., B, n, width] with their positions added, or as they are with their rotation in a stack.

        index, grid, longest: as of ``token_positions``. Or tokens [B, width], one index each.
        """
        packed = tokens.ndim == 2
        if self.position == "rotary":
            assert stack.rotary is not None
            blocks = torch.stack(token_blocks(index, grid), dim=-1)
            angle = stack.rotary(blocks.flatten(0, 1) if packed else blocks)
            return tokens, Rotation.of(angle, tokens.dtype)
        positions = token_positions(self.position, index, grid, longest, tokens.shape[-1]).to(tokens.dtype)
        return tokens + (positions.flatten(0, 1) if packed else positions), None

    def _packed_losses(self, batch: PackedBatch, views: PackedViews) -> Tensor:
        elements = None if batch.elements is None else batch.elements[views.masked]
        losses = mean_squared_errors(self._predict_packed(batch, views), batch.tokens[views.masked], elements)
        counts = list(views.masked_counts)
        samples = torch.split(views.layout.sample[views.masked], counts)
        weights = batch.task_weights.expand(len(counts), -1)
        parts = zip(torch.split(losses, counts), weights, samples, strict=True)
        return torch.stack([(part * weight[sample]).sum() for part, weight, sample in parts])

    def _packed_prediction(self, batch: PackedBatch, views: PackedViews) -> Prediction:
        values = self._predict_packed(batch, views)
        masked = torch.zeros(len(batch.tokens), dtype=torch.bool, device=values.device)
        return Prediction(
            values=torch.zeros_like(batch.tokens).index_copy(0, views.masked, values),
            masked=masked.index_fill(0, views.masked, True),
        )

    def _predict_packed(self, batch: PackedBatch, views: PackedViews) -> Tensor:
        """Predicted values float32 [M, D] of the masked tokens, all views in one pass."""
        dtype = self.patch_embedding.weight.dtype
        embedded = self.patch_embedding(batch.tokens[views.kept].to(dtype))
        embedded, rotation = self._placed_packed(self.encoder, embedded, batch, views.layout, views.kept)
        encoded = self.decoder_embedding(self.encoder(embedded, views.encoder, rotation))
        mask_tokens = self.mask_token.to(encoded.dtype).view(1, -1).expand(len(views.decoded), -1)
        states = mask_tokens.index_copy(0, views.kept_rows, encoded)
        states, rotation = self._placed_packed(self.decoder, states, batch, views.layout, views.decoded)
        decoded = self.decoder(states, views.decoder, rotation)
        # An index would sort the rows in its backward pass.
        return cast(Tensor, self.head(decoded.index_select(0, views.masked_rows)).float())

    def _placed_packed(
        self, stack: Stack, tokens: Tensor, batch: PackedBatch, layout: Layout, which: Tensor
    ) -> tuple[Tensor, Rotation | None]:
        """Tokens [n, width] of some rows (int64 [n]) of a packed batch, as of ``_placed``."""
        index, grid = layout.index[which][:, None], batch.grid[layout.sample[which]]
        return self._placed(stack, tokens, index, grid, layout.longest)
