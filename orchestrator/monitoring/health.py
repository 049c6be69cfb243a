"""Losses that jump and ranks that stay slow; the numbers are those of all ranks, so every rank finds the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.monitoring.divergence import SpikeDetector
from orchestrator.monitoring.stragglers import StragglerDetector
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.rank_events import RankEvents


class Health:
    """Looks at every step. machines: of the ranks. spike_factor, slow_factor: of the two detectors; None: off."""

    def __init__(
        self, machines: Sequence[str], events: RankEvents, *, spike_factor: float | None, slow_factor: float | None
    ) -> None:
        self._machines, self._events = machines, events
        self._spikes = SpikeDetector(spike_factor)
        self._stragglers = StragglerDetector(len(machines), slow_factor)

    def check(self, step: int, where: str, loss: float, rank_seconds: NDArray[np.float64]) -> float:
        """Time of the slowest rank over that of the median one; ranks that are found slow are named in a warning.

        step: optimizer step, from 0. where: the same for a message. rank_seconds: [ranks], for which each rank computed
        before it waited for the others.

        Raises:
            TrainingDivergedError: the loss jumped.
        """
        problem = self._spikes.add(loss)
        if problem is not None:
            raise TrainingDivergedError(f"{problem}, at {where}", step)
        slow, slowest = self._stragglers.add(rank_seconds)
        for rank, times in slow:
            text = f"rank {rank} on {self._machines[rank]} computes {times:.1f} times as long as the median rank"
            self._events.emit("warning", text=text, step=step, metrics={"health/slow_rank": float(rank)})
        return slowest
