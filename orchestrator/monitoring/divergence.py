"""Losses that jump. Every rank sees the same reduced loss, so every rank finds the same."""

import statistics
from collections import deque

REMEMBERED_STEPS = 50
STEPS_TO_KNOW = 10


class SpikeDetector:
    """Compares each loss with the median of those before it. factor: a loss so many times as large is a spike."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    def add(self, loss: float) -> str | None:
        """What is wrong with the loss of the next step, or None."""
        usual = statistics.median(self._losses) if len(self._losses) >= STEPS_TO_KNOW else None
        if self._factor is not None and usual is not None and loss > self._factor * usual:
            return f"loss {loss:.4g} is {loss / usual:.1f} times the median {usual:.4g} of the steps before"
        self._losses.append(loss)
        return None
