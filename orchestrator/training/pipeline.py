"""Steps that are begun before the numbers of the ones before them are read, so that the host never waits for a device.

A state may be saved only where the loss of the last step is known to be finite and no later step has changed the
weights. So wherever training may stand still after a step, the pipeline settles first: every step that is under way is
read before another one is begun.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from orchestrator.monitoring.profiling import waiting_for_data
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.training.loader import StepBatch
from orchestrator.training.step_report import StepResult


class Report(Protocol):
    """What a step that was begun leaves."""

    def read(self) -> StepResult:
        """Wait for the numbers. Raises TrainingDivergedError if a loss or the gradient was not finite."""


@dataclass(frozen=True, slots=True)
class TrainedStep:
    """A step whose numbers are known."""

    number: int
    """Optimizer step of the run, from 0."""
    batch: StepBatch
    result: StepResult
    wait_s: float
    """For which this rank waited for the batch."""
    running: int
    """Later steps that are under way."""

    @property
    def loss(self) -> float:
        """Mean loss of the tasks that mask anything of this batch, which is what is minimised."""
        present = np.asarray(self.result.losses)[self.batch.denominators > 0]
        return float(present.mean()) if present.size else 0.0


@dataclass(frozen=True, slots=True)
class SkippedStep:
    """A step that is passed over, because an earlier attempt diverged at it; none is under way."""

    number: int
    batch: StepBatch


@dataclass(frozen=True, slots=True)
class _Running:
    number: int
    batch: StepBatch
    wait_s: float
    report: Report


def timed(
    batches: Iterable[StepBatch], around_first: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[tuple[StepBatch, float]]:
    """Batches, and the seconds that were waited for each. around_first: entered while the first is waited for."""
    steps, around = iter(batches), around_first
    while True:
        started = time.perf_counter()
        with waiting_for_data(), around():
            batch = next(steps, None)
        if batch is None:
            return
        around = nullcontext
        yield batch, time.perf_counter() - started


def run_steps(
    batches: Iterable[tuple[StepBatch, float]],
    begin: Callable[[StepBatch, int], Report],
    *,
    first: int,
    lag: int,
    skipped: Collection[int],
    settles_after: Callable[[StepBatch, int], bool],
) -> Iterator[TrainedStep | SkippedStep]:
    """Begin a step for every batch and yield the steps in order, each once its numbers are known.

    first: number of the first step. lag: steps that may be begun before the numbers of one are read. skipped: numbers
    of steps that are passed over. settles_after: whether training may stand still after a batch, the last of so many
    steps; beside that it does where a rank asks in a step's signals for a state.

    Raises:
        TrainingDivergedError: a loss or a gradient is not finite; says at which step.
    """
    running: deque[_Running] = deque()
    for number, (batch, wait_s) in enumerate(batches, start=first):
        is_skipped = number in skipped
        if not is_skipped:
            with _naming_step(number):
                running.append(_Running(number, batch, wait_s, begin(batch, number)))
        settles = is_skipped or settles_after(batch, number + 1)
        while len(running) > (0 if settles else lag):
            oldest = running.popleft()
            with _naming_step(oldest.number):
                result = oldest.report.read()
            settles = settles or result.signals.ask_to_save
            yield TrainedStep(oldest.number, oldest.batch, result, oldest.wait_s, len(running))
        if is_skipped:
            yield SkippedStep(number, batch)


@contextmanager
def _naming_step(number: int) -> Iterator[None]:
    """Adds the number of the step to a divergence."""
    try:
        yield
    except TrainingDivergedError as error:
        raise TrainingDivergedError(str(error), number) from None
