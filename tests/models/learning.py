"""Learning a batch by heart: what every model must be able to do."""

import torch

from models.interface import MaskDraw, PretrainingModel, TokenBatch


def losses_by_heart(
    model: PretrainingModel, batch: TokenBatch, *, lr: float, steps: int, fresh_masks: bool = False
) -> list[float]:
    """Summed losses of AdamW steps on one batch, with one mask or with fresh masks in every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    torch.manual_seed(0)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(batch, MaskDraw(seed=0, epoch=step if fresh_masks else 0)).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
