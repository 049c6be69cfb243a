"""Source entropy of batches and of buckets: how many sets train together, and how evenly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplers.catalogue import Catalogue
from samplers.plan import Bucket
from samplers.segmentation import entropy_bits


@dataclass(frozen=True, slots=True)
class Entropy:
    """Source entropy in bits, and as a share of the largest possible one, log2(sets of the catalogue)."""

    bits: float
    normalised: float


def source_entropy(catalogue: Catalogue, sources: NDArray[np.int32], weight: NDArray[np.float32]) -> Entropy:
    """Entropy of the sets that true samples come from. sources, weight: [n]."""
    return _entropy(catalogue, _per_set(catalogue, sources, weight > 0))


def bucket_entropy(catalogue: Catalogue, bucket: Bucket) -> Entropy:
    """Entropy of the sets a bucket draws from."""
    sources = np.asarray([span.source for span in bucket.spans])
    return _entropy(catalogue, _per_set(catalogue, sources, [span.count for span in bucket.spans]))


def _set_numbers(catalogue: Catalogue) -> NDArray[np.int64]:
    """Number of the set of each source, in order of first appearance."""
    numbers = {name: number for number, name in enumerate(catalogue.set_names)}
    return np.asarray([numbers[source.name] for source in catalogue], np.int64)


def _per_set(catalogue: Catalogue, sources: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """Sums of weights over the samples of each set."""
    set_of = _set_numbers(catalogue)[np.asarray(sources)]
    return np.bincount(set_of, weights=np.asarray(weight, np.float64)).astype(np.float64)


def _entropy(catalogue: Catalogue, counts: NDArray[np.float64]) -> Entropy:
    bits = entropy_bits(counts)
    sets = len(catalogue.set_names)
    return Entropy(bits, bits / float(np.log2(sets)) if sets > 1 else 0.0)
