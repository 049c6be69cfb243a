"""Ranks that keep the others waiting: they compute for longer than the median rank, over many steps."""

import numpy as np
from numpy.typing import NDArray

WINDOW = 30
"""Steps over which a rank must be slow on average to be named: a single step says little, as buckets differ in cost."""


class StragglerDetector:
    """Means of the ranks' own seconds over a window of steps. factor: a rank is slow above so many times the median."""

    def __init__(self, world: int, factor: float | None) -> None:
        self._factor = factor
        self._sums = np.zeros(world)
        self._steps = 0
        self._named: set[int] = set()

    def add(self, seconds: NDArray[np.float64]) -> tuple[list[tuple[int, float]], float]:
        """(rank, times the median) of ranks found slow by this step for the first time, and slowest / median.

        seconds: [ranks], what it spent computing in this step before it waited for the others.
        """
        self._sums += seconds
        self._steps += 1
        # The lower of the middle two. Their mean would be, of two ranks, half of the slower one, and hide it.
        usual = float(np.sort(self._sums)[(len(self._sums) - 1) // 2])
        ratios = self._sums / max(usual, 1e-9)
        found: list[tuple[int, float]] = []
        if self._steps >= WINDOW:
            slow = [] if self._factor is None else [int(rank) for rank in np.flatnonzero(ratios > self._factor)]
            found = [(rank, float(ratios[rank])) for rank in slow if rank not in self._named]
            self._named = set(slow)
            self._sums[:] = 0
            self._steps = 0
        return found, float(ratios.max())
