"""Steps of a sequence as vectors: a convolution over neighbouring steps, and sinusoidal positions."""

import math
from typing import cast

import torch
from torch import Tensor, nn


class StepEmbedding(nn.Module):
    """Vectors [n, length, width] of steps [n, length, features]; ends meet in the convolution over three steps."""

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.values = nn.Conv1d(features, width, kernel_size=3, padding=1, padding_mode="circular")
        nn.init.kaiming_normal_(self.values.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor) -> Tensor:
        """See the class."""
        embedded: Tensor = self.values(steps.transpose(1, 2)).transpose(1, 2)
        positions = sinusoids(steps.shape[1], embedded.shape[2], embedded.device)
        return cast(Tensor, self.dropout(embedded + positions.to(embedded.dtype)))


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions float32 [length, width], sines at even and cosines at odd places (Vaswani 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device).float() * -(math.log(10000.0) / width))
    angles = torch.arange(length, device=device).float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
