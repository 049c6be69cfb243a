"""Expected padding of random batches, in closed form (HeterCSI Eq. 2: a batch is padded to its longest sample).

The batches of a bucket are drawn without replacement, so the longest of m out of n samples has length l or less with
probability C(samples of length l or less, m) / C(n, m): the expectation needs no drawing.
"""

import numpy as np
from numpy.typing import NDArray

from samplers.permutation import Integers

Floats = NDArray[np.float64]
SMALL = 64
LOG_FACTORIALS: Floats = np.cumsum(np.log(np.maximum(np.arange(SMALL), 1)))
NEGLIGIBLE = -40.0
"""Logarithm of a probability that changes no digit of an expectation."""


def expected_padded_tokens(lengths: Integers, counts: Integers, batch: int) -> float:
    """Tokens that an epoch computes when random batches, drawn without replacement, are padded to their longest sample.

    lengths, counts: int64 [n], samples of each length. batch: samples of a batch; the last batch may be smaller, and is
    counted with its true samples only.
    """
    distinct, place = np.unique(lengths, return_inverse=True)
    samples = np.concatenate([[0], np.cumsum(np.bincount(place, weights=counts))]).astype(np.int64)
    whole, size = np.zeros(1, np.int64), np.asarray([batch], np.int64)
    return float(expected_padded_costs(distinct.astype(np.float64), samples, whole, size)[0])


def expected_padded_costs(costs: Floats, samples: Integers, starts: Integers, batch: Integers) -> Floats:
    """Expected cost float64 [R] of an epoch of each of several buckets that end with the same length.

    costs: float64 [D], cost of a sample padded to each distinct length, ascending. samples: int64 [D + 1], how many
    samples are shorter than each distinct length, and how many there are. starts: int64 [R], the first distinct length
    of each bucket. batch: int64 [R], samples of its batches; the last batch has those that remain.
    """
    total = samples[-1] - samples[starts]
    full, rest = np.divmod(total, batch)
    largest = _expected_largest(costs, samples, starts, np.minimum(batch, total))
    return full * batch * largest + rest * _expected_largest(costs, samples, starts, rest)


def padding_ratio(valid: float, padded: float) -> float:
    """Share of the computed tokens that are padding: (padded - valid) / padded."""
    return (padded - valid) / padded


def _expected_largest(costs: Floats, samples: Integers, starts: Integers, drawn: Integers) -> Floats:
    """Expectation float64 [R] of the largest cost of ``drawn`` random samples of each bucket."""
    total = samples[-1] - samples[starts]
    some = samples[1:-1] - samples[starts][:, None]
    # Draws without replacement find fewer and fewer of some samples: independent draws bound the probability.
    least = total * np.exp(NEGLIGIBLE / np.maximum(drawn, 1))
    row, column = np.nonzero(some >= np.maximum(np.maximum(drawn, least), 1)[:, None])
    certainty = np.zeros(some.shape)
    certainty[row, column] = np.exp(_log_falling(some[row, column], drawn[row]) - _log_falling(total, drawn)[row])
    largest: Floats = costs[-1] - certainty @ np.diff(costs)
    return largest


def _log_falling(numbers: Integers, factors: Integers) -> Floats:
    """log(n (n - 1) .. (n - m + 1)) of numbers n and m <= n factors, int64 [k] each.

    The difference of log n! and log (n - m)! by Stirling's series; the large terms that cancel are left out, so that
    quotients of such products keep about eleven digits for a billion samples.
    """
    left = numbers - factors
    few = left < SMALL
    logs = np.empty(len(numbers))
    logs[few] = _log_factorial(numbers[few]) - LOG_FACTORIALS[left[few]]
    n, m, rest = (values[~few].astype(np.float64) for values in (numbers, factors, left))
    logs[~few] = m * np.log(n) - (rest + 0.5) * np.log1p(-m / n) - m + _stirling_tail(n) - _stirling_tail(rest)
    return logs


def _log_factorial(numbers: Integers) -> Floats:
    n = np.maximum(numbers, SMALL).astype(np.float64)
    series = (n + 0.5) * np.log(n) - n + 0.5 * np.log(2 * np.pi) + _stirling_tail(n)
    logs: Floats = np.where(numbers < SMALL, LOG_FACTORIALS[np.minimum(numbers, SMALL - 1)], series)
    return logs


def _stirling_tail(n: Floats) -> Floats:
    """log n! minus the leading terms of Stirling's series, to 1e-12 from SMALL on."""
    inverse = 1 / n
    tail: Floats = inverse * (1 / 12 - inverse * inverse / 360)
    return tail
