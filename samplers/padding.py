"""Expected padding of randomly filled batches, in closed form."""

from math import lgamma

import numpy as np
from numpy.typing import NDArray


def expected_padded_tokens(lengths: NDArray[np.int64], counts: NDArray[np.int64], batch: int) -> float:
    """Tokens that an epoch computes when random batches, drawn without replacement, are padded to their longest sample.

    lengths, counts: int64 [n], samples of each length. batch: samples of a batch; the last batch may be smaller, and is
    counted with its true samples only.
    """
    distinct, place = np.unique(lengths, return_inverse=True)
    below = np.cumsum(np.bincount(place, weights=counts)).astype(np.int64)
    full, rest = divmod(int(below[-1]), batch)
    tokens = full * batch * _expected_maximum(distinct, below, batch) if full else 0.0
    return tokens + rest * _expected_maximum(distinct, below, rest)


def padding_ratio(valid: float, padded: float) -> float:
    """Share of the computed tokens that are padding: (padded - valid) / padded."""
    return (padded - valid) / padded


def _expected_maximum(lengths: NDArray[np.int64], below: NDArray[np.int64], drawn: int) -> float:
    """E[longest of ``drawn`` samples]: P(longest <= l) = C(samples up to l, drawn) / C(all samples, drawn)."""
    total = int(below[-1])
    certainty = np.asarray([_share_of_subsets(int(some), total, drawn) for some in below])
    return float(lengths @ np.diff(certainty, prepend=0.0))


def _share_of_subsets(some: int, total: int, drawn: int) -> float:
    if some < drawn:
        return 0.0
    if some == total:
        return 1.0
    excess = lgamma(some + 1) - lgamma(some - drawn + 1) - lgamma(total + 1) + lgamma(total - drawn + 1)
    return float(np.exp(min(excess, 0.0)))
