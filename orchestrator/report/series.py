"""Series of numbers made fit to be drawn: smoothed, and thinned where they are long."""

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
POINTS = 400
SMOOTHING = 0.03


def smoothed(values: Series) -> Series:
    """Centred running mean over a few per cent of the series; the ends average what there is."""
    width = max(int(SMOOTHING * len(values)), 1)
    kernel = np.ones(2 * width + 1)
    total, weight = (np.convolve(part, kernel)[width : width + len(values)] for part in (values, np.ones_like(values)))
    mean: Series = total / weight
    return mean


def thinned(along: Series, values: Series) -> tuple[Series, Series]:
    """At most POINTS points: means of equal runs of neighbours."""
    if len(values) <= POINTS:
        return along, values
    parts = np.array_split(np.arange(len(values)), POINTS)
    return np.asarray([along[part].mean() for part in parts]), np.asarray([values[part].mean() for part in parts])
