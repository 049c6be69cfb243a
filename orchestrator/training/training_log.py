"""What is counted and written down of every step and every epoch."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from orchestrator.monitoring.allocator import allocator_metrics
from orchestrator.run.rank_events import RankEvents
from orchestrator.spec.train import TrainSection
from orchestrator.training.learning_rate import job_rate
from orchestrator.training.mfu import StepWork
from orchestrator.training.pipeline import SkippedStep, TrainedStep
from orchestrator.training.sample_log import SampleLog
from orchestrator.training.totals import Progress
from samplers.batches import ScheduledBatches
from samplers.schedule import Schedule


@dataclass(slots=True)
class LineTimes:
    """Where the time since the last line went, of which the run's ledger is made. Seconds."""

    _steps: float = 0.0
    _wait: float = 0.0
    _exchange: float = 0.0
    _saving: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def add(self, seconds: float, wait: float, exchange: float) -> None:
        """Count a step, and what of it was waiting for data and communication."""
        self._steps += seconds
        self._wait += wait
        self._exchange += exchange

    def stand(self, seconds: float) -> None:
        """Training stood still for the copy of a state."""
        self._saving += seconds

    def take(self) -> dict[str, float]:
        """All of it for a line; the next one begins."""
        now = time.perf_counter()
        took = {
            "all_s": now - self._since,
            "steps_s": self._steps,
            "wait_s": self._wait,
            "exchange_s": self._exchange,
            "saving_s": self._saving,
        }
        self._steps = self._wait = self._exchange = self._saving = 0.0
        self._since = now
        return {name: round(value, 6) for name, value in took.items()}


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """Of one rank; all ranks call the same methods after the same steps, and rank 0 writes.

    moved: counters of the placement of shards, of this attempt so far. every_steps: so rarely a step is written.
    peak_flops: operations/s of all devices together, None where unknown.
    """

    train: TrainSection
    tasks: tuple[str, ...]
    batches: ScheduledBatches
    progress: Progress
    events: RankEvents
    samples: SampleLog | None
    moved: Callable[[], Mapping[str, float]]
    every_steps: int
    peak_flops: float | None
    times: LineTimes = field(default_factory=LineTimes)

    def trained(self, step: TrainedStep, seconds: float, slowest: float) -> None:
        """Take in a step that took so long. slowest: time of the slowest rank over that of the median one."""
        batch, progress = step.batch, self.progress
        self.batches.consumed(batch.epoch, batch.step)
        progress.step += 1
        progress.train_seconds += seconds
        progress.epoch.add(batch, step.result, seconds)
        self.times.add(seconds, step.wait_s, step.result.exchange_s)
        if self.samples:
            self.samples.add(progress.step, batch)
        if progress.step == self.batches.schedule.total_steps or progress.step % self.every_steps == 0:
            metrics = self._metrics(step, seconds, slowest)
            self.events.emit("step", step=progress.step, metrics=metrics, took=self.times.take())
        self._end_epoch_after(batch.epoch, batch.step)

    def skipped(self, step: SkippedStep) -> None:
        """Take in a step that was passed over: its samples are named, and coverage lacks them."""
        batch, progress = step.batch, self.progress
        self.batches.consumed(batch.epoch, batch.step)
        progress.step += 1
        samples = samples_of_step(self.batches.schedule, batch.epoch, batch.step)
        count = float(sum(map(len, samples.values())))
        metrics = {"health/skipped_samples": count}
        self.events.emit("skipped", step=progress.step, metrics=metrics, samples=samples)
        text = f"step {progress.step} is skipped ({count:.0f} samples): a loss diverged there"
        self.events.emit("warning", text=text)
        self._end_epoch_after(batch.epoch, batch.step)

    def _end_epoch_after(self, epoch: int, step: int) -> None:
        if step + 1 == self.batches.schedule.steps(epoch):
            self.events.emit("epoch", step=self.progress.step, metrics=self.progress.epoch.finish(epoch, self.moved()))

    def _metrics(self, step: TrainedStep, seconds: float, slowest: float) -> dict[str, float]:
        batch, result = step.batch, step.result
        steps = self.batches.schedule.steps(batch.epoch)
        work = StepWork(batch.valid_tokens, result.padded_tokens, batch.valid_flops, result.computed_flops)
        return {
            "train/loss": step.loss,
            **self._losses_by_task(step),
            "train/lr": job_rate(self.train, batch.epoch, batch.step, steps),
            "train/grad_norm": result.grad_norm,
            "train/epoch": batch.epoch + (batch.step + 1) / steps,
            "data/padding_ratio": 1.0 - batch.valid_tokens / max(result.padded_tokens, 1),
            "data/source_entropy": batch.source_entropy,
            "data/step_imbalance": batch.imbalance,
            "data/bucket": float(batch.bucket),
            **work.speeds(seconds, self.peak_flops),
            "perf/step_ms": 1e3 * seconds,
            "perf/slowest_rank": slowest,
            "perf/data_wait_ms": 1e3 * step.wait_s,
            **allocator_metrics(result.rank_memory),
            "time/train_s": self.progress.train_seconds,
        }

    def _losses_by_task(self, step: TrainedStep) -> dict[str, float]:
        """Of the tasks that mask anything of this batch, where a model has several."""
        if len(self.tasks) < 2:
            return {}
        found = zip(self.tasks, step.result.losses, step.batch.denominators, strict=True)
        return {f"train/loss_{task}": loss for task, loss, masked in found if masked > 0}


def samples_of_step(schedule: Schedule, epoch: int, step: int) -> dict[str, list[int]]:
    """Index of every true sample of a global step, by source."""
    found: dict[str, list[int]] = {}
    for slice_ in schedule.global_step(epoch, step):
        true = slice_.weight > 0
        for source in np.unique(slice_.source[true]):
            indices = slice_.index[true & (slice_.source == source)]
            found.setdefault(schedule.catalogue.sources[int(source)].name, []).extend(map(int, indices))
    return found
