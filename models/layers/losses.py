"""The error that all models are trained on."""

from torch import Tensor

from models.interface import PackedBatch, TokenBatch


def token_losses(predicted: Tensor, batch: TokenBatch | PackedBatch) -> Tensor:
    """Mean squared error of each token over its real elements, float32 [..., B, L] of predictions [..., B, L, D]."""
    return mean_squared_errors(predicted, batch.tokens, batch.elements)


def mean_squared_errors(predicted: Tensor, target: Tensor, elements: Tensor | None) -> Tensor:
    """The same [...] of predictions and targets [..., D]; elements: bool [..., D] or None, False where filled."""
    errors = (predicted - target).square()
    if elements is None:
        return errors.mean(dim=-1)
    return (errors * elements).sum(dim=-1) / elements.sum(dim=-1).clamp(min=1)
