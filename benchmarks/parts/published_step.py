"""The training step of HeterCSI as its published code runs it, kept for comparisons only.

From the public code: a batch padded to its longest sample; three forward and backward passes, one a task, each with its
own loss read by the host; attention through the whole [B, heads, L, L] map with a mask that is always there; AdamW and
gradient clipping by norm; on CUDA float16 autocast with a gradient scaler. Masks and weights are those of models/, so
that both paths compute the same passes over the same tokens.
"""

import torch
from torch import Tensor, nn

from models.autoencoder.model import MaskedAutoencoder
from models.interface import TokenBatch
from models.layers.attention import Attention
from models.layers.losses import token_losses
from models.layers.masking import TASKS
from models.layers.padded_attention import RowKeys
from models.layers.parameters import optimizer_groups


class NaiveAttention(nn.Module):
    """Softmax over materialised scores, padding filled with the least number."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = attention.heads, attention.qkv, attention.proj

    def forward(self, tokens: Tensor, keys: RowKeys | None, rotation: None = None) -> Tensor:
        """[B, L, width] of tokens [B, L, width], of which ``keys`` count, None for all. rotation: there was none."""
        batch, length, width = tokens.shape
        everything = torch.ones(batch, 1, 1, length, dtype=torch.bool, device=tokens.device)
        key_mask = everything if keys is None else keys.mask
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~key_mask, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class PublishedStep:
    """Model and optimizer; call it with a batch to train one step."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        for block in (*model.encoder.blocks, *model.decoder.blocks):
            block.attention = NaiveAttention(block.attention)
        self.model = model
        self.device = next(model.parameters()).device.type
        self.optimizer = torch.optim.AdamW(optimizer_groups(model, 0.05), lr=8e-4, betas=(0.9, 0.95))
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.device == "cuda")

    def __call__(self, batch: TokenBatch) -> float:
        """The sum of the three losses."""
        self.optimizer.zero_grad()
        total = 0.0
        for task in TASKS:
            with torch.autocast(self.device, torch.float16, enabled=self.device == "cuda"):
                prediction = self.model.predict(batch, task, seed=0)
                loss = token_losses(prediction.values, batch)[prediction.masked].mean()
            total += loss.item()
            self.scaler.scale(loss / len(TASKS)).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return total
