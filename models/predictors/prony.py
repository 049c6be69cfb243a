"""Vector Prony: every later slot is one and the same linear combination of the slots before it.

``pad`` is the baseline of LLM4CP and HeterCSI (PAPERS section 5): the coefficients solve the least squares of the last
p + 1 known slots alone, over all coefficients of the angle-delay domain together. The projection there,
kron(DFT_K, DFT_A), is unitary and the combination the same for all its outputs, so it changes neither the solution nor
the prediction and is left out. ``prony`` takes all windows of the known slots, forwards and, as waves have a constant
modulus, backwards in conjugate; more coefficients; and a ridge against the noise.
"""

import torch
from torch import Tensor

PRONY_RIDGE = 1e-3
"""Of the mean power of the regressors: a tenth of the noise at 20 dB, which regularises by itself."""
_SMALLEST = 1e-13
"""Squared singular values below this share of the largest are rounding and count as zero."""


def pad_order(slots: int) -> int:
    """Half of the known slots: 4 of 8 (T = 16) and 6 of 12 (T = 24), as published."""
    return max(slots // 2, 1)


def prony_order(slots: int) -> int:
    """Three quarters of the known slots: 6 of 8 (T = 16), 9 of 12 (T = 24)."""
    return max(3 * slots // 4, 1)


def predict_pad(history: Tensor, steps: int) -> Tensor:
    """The next slots, complex64 [n, steps, ...], of known ones, complex [n, h, ...] with h of at least 2."""
    slots = history.shape[1]
    order = pad_order(slots)
    products = slot_products(history)
    normal, right = _equations(products, order, windows=range(slots - order - 1, slots - order))
    inverse = torch.linalg.pinv(normal, hermitian=True, rtol=_SMALLEST)
    return _extrapolate(history, steps, (inverse @ right[..., None])[..., 0])


def predict_prony(history: Tensor, steps: int) -> Tensor:
    """The same, regularised."""
    slots = history.shape[1]
    order = prony_order(slots)
    products = slot_products(history)
    windows = range(slots - order)
    forwards = _equations(products, order, windows)
    backwards = _equations(products.flip(1, 2).conj(), order, windows)
    normal, right = (ahead + behind for ahead, behind in zip(forwards, backwards, strict=True))
    power = normal.diagonal(dim1=1, dim2=2).real.mean(dim=1)
    identity = torch.eye(order, dtype=normal.dtype, device=normal.device)
    loaded = normal + (PRONY_RIDGE * power + torch.finfo(torch.float64).tiny)[:, None, None] * identity
    return _extrapolate(history, steps, torch.linalg.solve(loaded, right))


def slot_products(history: Tensor) -> Tensor:
    """Inner products complex128 [n, h, h] of the slots of [n, h, ...]: of slot i with the conjugate of slot j."""
    vectors = history.flatten(2).to(torch.complex128)
    return vectors @ vectors.mH


def _equations(products: Tensor, order: int, windows: range) -> tuple[Tensor, Tensor]:
    """Normal matrix [n, p, p] and right side [n, p] of the least squares of ``order`` slots for the one after them.

    windows: first slots of the windows whose squares are summed.
    """
    normal = sum(products[:, first : first + order, first : first + order] for first in windows)
    right = sum(products[:, first + order, first : first + order] for first in windows)
    assert isinstance(normal, Tensor) and isinstance(right, Tensor)
    return normal.transpose(1, 2), right


def _extrapolate(history: Tensor, steps: int, coefficients: Tensor) -> Tensor:
    """Apply coefficients [n, p], of the oldest slot first, again and again: as one matrix from known to later slots."""
    count, slots = history.shape[:2]
    order = coefficients.shape[1]
    unit = torch.eye(slots, dtype=coefficients.dtype, device=coefficients.device)
    rows = [unit[slot].expand(count, slots) for slot in range(slots - order, slots)]
    for _ in range(steps):
        rows.append((coefficients[:, :, None] * torch.stack(rows[-order:], dim=1)).sum(dim=1))
    matrix = torch.stack(rows[order:], dim=1)
    later = matrix @ history.flatten(2).to(matrix.dtype)
    return later.reshape(count, steps, *history.shape[2:]).to(torch.complex64)
