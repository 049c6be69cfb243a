"""Exact one-dimensional segmentation under constraints: dynamic programming over the distinct lengths.

A bucket is a run of consecutive distinct lengths, and what an epoch costs is the sum over the buckets. With D lengths
and at most B buckets the optimum takes O(B D^2) steps and O(B D) memory (vectorised over the start of a run).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError

Floats = NDArray[np.float64]
RunCosts = Callable[[int], Floats]
"""Costs float64 [end] of the runs [start, end) for start = 0 .. end - 1; infinite for a run that is no bucket."""
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Constraints:
    """Constraint C3 of the HeterCSI paper: enough different sources in every bucket.

    min_sources: sets at least. min_entropy: source entropy at least, in bits.
    """

    min_sources: int = 1
    min_entropy: float = 0.0

    def complaint(self, counts: Floats) -> str | None:
        """What a bucket with these samples a set lacks, or None."""
        if len(counts) < self.min_sources:
            return f"holds {len(counts)} sets, fewer than min_sources {self.min_sources}"
        bits = float(entropy_bits(counts))
        if bits < self.min_entropy - SLACK:
            return f"has source entropy {bits:.3f} bits, less than min_entropy {self.min_entropy:g}"
        return None


def entropy_bits(counts: Floats) -> float:
    """Shannon entropy in bits of the distribution that counts are proportional to."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


@dataclass(frozen=True, slots=True)
class Segments:
    """Distinct lengths and prefix sums over their sources: sums over a run of lengths take O(1).

    lengths, counts: int64 [D]. samples, sources, surprise: prefix sums [D + 1] of the samples, of the number of sources
    and of n log2 n over sources of n samples.
    """

    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    samples: Floats
    sources: Floats
    surprise: Floats

    @classmethod
    def from_counts(cls, lengths: Sequence[int], counts: Sequence[Sequence[int]]) -> "Segments":
        """lengths: ascending, distinct. counts: for each length the samples of every source that has it."""
        totals = np.asarray([sum(group) for group in counts], np.int64)
        surprise = [sum(count * np.log2(count) for count in group) for group in counts]
        return cls(
            lengths=np.asarray(lengths, np.int64),
            counts=totals,
            samples=_prefix(totals),
            sources=_prefix([len(group) for group in counts]),
            surprise=_prefix(surprise),
        )

    def samples_from(self, end: int) -> Floats:
        """Samples of the runs [start, end) for start = 0 .. end - 1."""
        samples: Floats = self.samples[end] - self.samples[:end]
        return samples

    def sources_from(self, end: int) -> Floats:
        """Sources of the same runs."""
        sources: Floats = self.sources[end] - self.sources[:end]
        return sources

    def entropy_from(self, end: int) -> Floats:
        """Source entropy in bits of the same runs."""
        samples = self.samples_from(end)
        bits: Floats = np.log2(samples) - (self.surprise[end] - self.surprise[:end]) / samples
        return bits


def best_cut(segments: Segments, costs: RunCosts, buckets: int, limits: Constraints) -> list[int]:
    """Ends of the runs of lengths of the cheapest cut into at most ``buckets`` runs; of equal ones the fewest runs.

    Raises UserError where no cut meets the constraints.
    """
    size = len(segments.lengths)
    total = np.full((buckets + 1, size + 1), np.inf)
    total[0, 0] = 0.0
    origin = np.zeros((buckets + 1, size + 1), np.int64)
    for end in range(1, size + 1):
        of_runs = np.where(_allowed(segments, end, limits), costs(end), np.inf)
        candidates = total[:-1, :end] + of_runs
        origin[1:, end] = _first_of_least(candidates)
        total[1:, end] = candidates[np.arange(buckets), origin[1:, end]]
    runs = int(_first_of_least(total[None, :, size])[0])
    if not np.isfinite(total[runs, size]):
        raise UserError(_infeasible(segments, buckets, limits), where="constraints")
    return _trace(origin, runs, size)


def _first_of_least(costs: Floats) -> NDArray[np.int64]:
    """In each row the first of the least values; what differs by rounding counts as equal, so that every machine finds
    the same."""
    least = costs.min(axis=1, keepdims=True)
    first: NDArray[np.int64] = (costs <= least * (1 + SLACK)).argmax(axis=1)
    return first


def widest_minimum(segments: Segments, buckets: int, measure: str) -> Floats:
    """For k = 1 .. buckets runs, the largest value that the smallest run can have: ``sources`` or ``entropy``."""
    size = len(segments.lengths)
    best = np.full((buckets + 1, size + 1), -np.inf)
    best[0, 0] = np.inf
    for end in range(1, size + 1):
        value = segments.sources_from(end) if measure == "sources" else segments.entropy_from(end)
        best[1:, end] = np.minimum(best[:-1, :end], value).max(axis=1)
    return best[1:, size]


def _allowed(segments: Segments, end: int, limits: Constraints) -> NDArray[np.bool_]:
    allowed: NDArray[np.bool_] = segments.sources_from(end) >= limits.min_sources
    if limits.min_entropy > 0:
        allowed &= segments.entropy_from(end) >= limits.min_entropy - SLACK
    return allowed


def _infeasible(segments: Segments, buckets: int, limits: Constraints) -> str:
    sources = widest_minimum(segments, buckets, "sources")
    entropy = widest_minimum(segments, buckets, "entropy")
    feasible = "; ".join(
        f"{runs} bucket{'s' if runs > 1 else ''}: up to {sources[runs - 1]:.0f} sets or {max(bits, 0.0):.3f} bits"
        for runs, bits in enumerate(entropy, start=1)
        if np.isfinite(bits)
    )
    asked = f"min_sources {limits.min_sources}"
    if limits.min_entropy > 0:
        asked += f" and min_entropy {limits.min_entropy:g} bits"
    return f"no cut has {asked} in every bucket; feasible with {feasible}"


def _trace(origin: NDArray[np.int64], runs: int, size: int) -> list[int]:
    ends: list[int] = []
    end = size
    for run in range(runs, 0, -1):
        ends.append(end)
        end = int(origin[run, end])
    return ends[::-1]


def _prefix(values: Sequence[float] | NDArray[np.int64]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
