"""The collector of garbage in a process whose imports are most of its objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (100_000, 50, 100)
"""So many new objects, and so many rounds of the youngest and the middle ones, before objects are looked through."""


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for garbage seldom, and not at the end of the process.

    What torch, Ray and MLflow make while they are imported stays: looking through it takes a third of the time of the
    imports, and a second when Python ends.
    """
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.freeze()
