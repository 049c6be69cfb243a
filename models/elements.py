"""Where a sample's numbers lie among its tokens, for every model whose tokens are those numbers in some order."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.interface import ModelSpec, Shape


@dataclass(frozen=True, slots=True)
class Elements:
    """Of samples of one scale at one granularity.

    index: int64 [T, K, A, 2], of real and imaginary part among the flattened tokens [L * D]. width: D.
    """

    index: Tensor
    width: int

    def channels(self, tokens: Tensor) -> Tensor:
        """Complex [B, T, K, A] of tokens [B, L, D]; what fills partial patches is left out."""
        return torch.view_as_complex(tokens.flatten(1)[:, self.index.flatten()].view(-1, *self.index.shape))

    def tokens(self, channels: Tensor, like: Tensor) -> Tensor:
        """Inverse of ``channels``, of the shape and type of tokens ``like`` and zero where they were filled."""
        values = torch.zeros_like(like).flatten(1)
        values[:, self.index.flatten()] = torch.view_as_real(channels).flatten(1).to(values.dtype)
        return values.view_as(like)

    def masked(self, masked: Tensor) -> Tensor:
        """Bool [B, T, K, A] of masked tokens [B, L]."""
        token = self.index[..., 0] // self.width
        return masked[:, token.flatten()].view(-1, *token.shape)


def find_elements(spec: ModelSpec, shape: Shape, variant: int, device: torch.device | str = "cpu") -> Elements | None:
    """The places in the tokens of a sample of scale (T, K, A); None for a model that does more than move its numbers.

    A sample of distinct numbers shows where each of them goes.
    """
    count = int(np.prod(shape))
    number = np.arange(1, count + 1)
    numbered = (number + 1j * (number + count)).astype(np.complex64).reshape(1, *shape)
    values = spec.tokenise(numbered, variant).values
    seen = values.reshape(-1)
    placed = np.flatnonzero(seen)
    order = placed[np.argsort(seen[placed], kind="stable")]
    if not np.array_equal(seen[order], np.arange(1, 2 * count + 1, dtype=np.float64)):
        return None
    index = np.stack([order[:count], order[count:]], axis=-1).reshape(*shape, 2)
    return Elements(torch.from_numpy(index).to(device), values.shape[2])
