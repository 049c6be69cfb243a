"""What padding would be with other methods and other numbers of buckets."""

from collections.abc import Sequence

from samplers.catalogue import Catalogue
from samplers.choices import METHODS
from samplers.partition import distinct_lengths
from samplers.plan import make_plan


def padding_by_buckets(
    catalogue: Catalogue,
    bucket_counts: Sequence[int],
    batch: int,
) -> dict[str, list[float]]:
    """Expected padding of every method for several numbers of buckets.

    Methods that keep equal lengths together have no more buckets than there are lengths: from there on they stay level.
    """
    most = max(distinct_lengths(catalogue, variant) for variant in {source.variant for source in catalogue})
    return {
        method: [
            make_plan(
                catalogue,
                method=method,
                buckets=count if method == "equal" else min(count, most),
                batch=batch,
            ).padding
            for count in bucket_counts
        ]
        for method in METHODS
    }
