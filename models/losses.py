"""The error that all models are trained on."""

from torch import Tensor

from models.interface import TokenBatch


def token_losses(predicted: Tensor, batch: TokenBatch) -> Tensor:
    """Mean squared error of each token over its real places, float32 [..., B, L] of predictions [..., B, L, D]."""
    errors = (predicted - batch.tokens).square()
    if batch.elements is None:
        return errors.mean(dim=-1)
    return (errors * batch.elements).sum(dim=-1) / batch.elements.sum(dim=-1).clamp(min=1)
