"""The steps of one attempt on one rank, from where the run stands to its end or a stop."""

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from orchestrator.monitoring.health import Health
from orchestrator.monitoring.profiling import StepProfile
from orchestrator.monitoring.watchdog import Watchdog
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.signals import SILENCE
from orchestrator.spec.job import JobSpec
from orchestrator.training.engine import TrainingEngine
from orchestrator.training.exporting import Exporter
from orchestrator.training.learning_rate import job_rate
from orchestrator.training.loader import StepBatch
from orchestrator.training.pipeline import SkippedStep, TrainedStep, run_steps, timed
from orchestrator.training.state import RunState
from orchestrator.training.step_report import StepReport
from orchestrator.training.training_log import TrainingLog
from samplers.permutation import root_key
from samplers.schedule import Schedule

Outcome = Literal["finished", "stopped"]


@dataclass(frozen=True, slots=True)
class TrainingLoop:
    """Begins steps, takes in what they gave, and saves, exports and stops where it is time to."""

    job: JobSpec
    schedule: Schedule
    engine: TrainingEngine
    skipped_steps: Collection[int]
    state: RunState
    log: TrainingLog
    exporter: Exporter
    health: Health
    watchdog: Watchdog
    profile: StepProfile

    def run(self, batches: Iterable[StepBatch]) -> Outcome:
        """Train on all batches, or until asked to stop.

        Raises:
            MicroBatchTooLargeError: the memory of this rank does not suffice.
            TrainingDivergedError: a loss was not finite or jumped.
        """
        try:
            self._train(batches)
        except TrainingDivergedError as error:
            self.log.events.emit("diverged", step=error.step, cause=str(error))
            raise
        with self.watchdog.paused():
            self.profile.close(self.log.progress.step)
            self.state.finish()
        return "finished" if self._is_finished else "stopped"

    @property
    def _is_finished(self) -> bool:
        return self.log.progress.step == self.schedule.total_steps

    def _train(self, batches: Iterable[StepBatch]) -> None:
        started = time.perf_counter()
        stop = False
        for step in self._steps(batches):
            if isinstance(step, SkippedStep):
                signals, running = SILENCE, 0
                self.log.skipped(step)
            else:
                signals, running = step.result.signals, step.running
                slowest = self.health.check(step.number, step.batch.where, step.loss, step.result.rank_seconds)
                self.log.trained(step, time.perf_counter() - started, slowest)
            self._export_after(step.batch)
            started = time.perf_counter()
            self.watchdog.beat()
            stop = stop or bool(signals.stop)
            saving = time.perf_counter()
            with self.watchdog.paused():
                stood_still = self.state.after_step(signals, finished=self._is_finished, running=running)
            # Here a rank waits for the others, of which one may hang.
            self.state.agree()
            if stood_still:
                started = time.perf_counter()
                self.log.times.stand(started - saving)
            if stop and not (running or self._is_finished):
                return

    def _steps(self, batches: Iterable[StepBatch]) -> Iterator[TrainedStep | SkippedStep]:
        return run_steps(
            timed(batches) if self.job.data.placement == "shared" else timed(batches, self._first_batch),
            self._begin,
            first=self.log.progress.step,
            lag=self.engine.lag,
            skipped=self.skipped_steps,
            settles_after=self._stands_still_after,
        )

    @contextmanager
    def _first_batch(self) -> Iterator[None]:
        """It may wait for copies of many shards; the ranks of other nodes wait here and not in the first step."""
        with self.watchdog.paused():
            yield
            dist.barrier()

    def _begin(self, batch: StepBatch, number: int) -> StepReport:
        self.profile.before(number)
        torch.manual_seed(root_key("step", self.job.seed, number, self.engine.rank) & (2**63 - 1))
        rate = job_rate(self.job.train, batch.epoch, batch.step, self.schedule.steps(batch.epoch))
        return self.engine.begin(batch, self.job.seed, rate, self.state.signals())

    def _stands_still_after(self, batch: StepBatch, steps: int) -> bool:
        """Whether a state is saved or weights are exported after a batch, the last of so many steps."""
        ended = batch.epoch if self._ends_epoch(batch) else None
        scored = ended is not None and self.state.is_scored(ended)
        return steps == self.schedule.total_steps or scored or self.state.is_planned(steps, ended)

    def _ends_epoch(self, batch: StepBatch) -> bool:
        return batch.step + 1 == self.schedule.steps(batch.epoch)

    def _export_after(self, batch: StepBatch) -> None:
        if self._ends_epoch(batch) and self.state.is_scored(batch.epoch):
            with self.watchdog.paused():
                self.exporter.export_for_scoring(self.log.progress.step)
