"""The nearest orthogonal matrix, nearly: Newton-Schulz iterations with the coefficients of Muon (Jordan 2024)."""

import torch
from torch import Tensor

STEPS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
EPSILON = 1e-12
"""Least norm of a matrix, far below that of any gradient, so that only its direction counts."""


def orthogonalised(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices with the singular vectors of the given ones, all of whose singular values lie in about [0.7, 1.2].

    matrices: float32 [n, rows, columns]; the result has their shape and type. Values far below the largest one come out
    smaller, and a zero matrix stays zero. dtype: in which the products are computed.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = (wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=EPSILON)).to(dtype)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC)
        wide = torch.baddbmm(wide, polynomial, wide, beta=LINEAR)
    return (wide.mT if tall else wide).to(matrices.dtype)
