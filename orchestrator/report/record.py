"""What a report shows of a run, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.evaluation.score import MODEL, NOISY, Score, averages, decibels
from orchestrator.report.series import Series
from orchestrator.run.goodput import Ledger
from orchestrator.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class Steps:
    """Series over the logged optimizer steps, float64 [n] each; a step that was repeated counts once.

    samples: seen since the start. wall_s: seconds of training, pauses between attempts left out. padding: share of the
    computed tokens. seconds: of the step itself. tokens_per_s: valid ones.
    """

    step: Series
    samples: Series
    wall_s: Series
    loss: Series
    lr: Series
    padding: Series
    seconds: Series
    tokens_per_s: Series


@dataclass(frozen=True, slots=True)
class ValidationSeries:
    """Scores on validation samples, float64 [n] each; a step that was scored again counts once. nmse_db: over all
    tasks and sets."""

    step: Series
    loss: Series
    nmse_db: Series


@dataclass(frozen=True, slots=True)
class Attempt:
    """From a start of the worker group to its end. seconds: how long it trained. outcome: ``finished``, ``stopped``, or
    None where it broke off or goes on."""

    first_step: int
    last_step: int
    workers: int
    device: str
    seconds: float
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Remark:
    """A line of the run's history: what happened (warning, diverged, note, failure) after which step."""

    kind: str
    step: int
    text: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything a report shows of one run. reason: why it ended, where it did not finish."""

    name: str
    status: str
    reason: str | None
    job: JobSpec
    plan: Mapping[str, Any]
    total_steps: int
    steps: Steps
    epochs: tuple[Mapping[str, float], ...]
    """Metrics of every finished epoch."""
    attempts: tuple[Attempt, ...]
    remarks: tuple[Remark, ...]
    checkpoints: tuple[int, ...]
    """Steps after which a checkpoint was written."""
    stall_s: float
    """For which training stood still at a checkpoint, on average."""
    ledger: Ledger
    scores: tuple[Score, ...]
    validation: ValidationSeries | None = None
    """None where none was scored."""
    caveats: tuple[str, ...] = ()
    """What the model's scores must be read with."""
    on_published_sets: bool = False
    """Whether all scored sets are the published HeterCSI sets with all their samples."""

    @property
    def done(self) -> int:
        """Optimizer steps done."""
        return int(self.steps.step[-1]) if len(self.steps.step) else 0

    @property
    def plan_name(self) -> str:
        """Strategy, number of buckets and method in a few words."""
        if self.plan["strategy"] != "bucket":
            return str(self.plan["strategy"]).replace("_", " ")
        count = len(self.plan["buckets"])
        return f"{count} bucket{'s' if count > 1 else ''}, {self.plan['method'].replace('_', ' ')}"

    @property
    def padding(self) -> float | None:
        """Measured share of padding over the last whole epoch, else over the steps so far."""
        measured = [epoch["data/epoch_padding_ratio"] for epoch in self.epochs if "data/epoch_padding_ratio" in epoch]
        if measured:
            return measured[-1]
        return float(self.steps.padding.mean()) if len(self.steps.step) else None

    @property
    def throughput(self) -> float | None:
        """Valid tokens a second of training; the first step of the run, which warms up, is left out."""
        speeds, seconds = self.steps.tokens_per_s[1:], self.steps.seconds[1:]
        return float(speeds @ seconds / seconds.sum()) if len(speeds) else None

    @property
    def minutes_per_epoch(self) -> float | None:
        """Median over the epochs that were done."""
        minutes = [epoch["time/epoch_min"] for epoch in self.epochs if "time/epoch_min" in epoch]
        return float(np.median(minutes)) if minutes else None

    @property
    def task_averages(self) -> dict[str, float]:
        """NMSE of the model by task, dB of the linear mean over the scored sets, noisy target."""
        means = averages(self.scores)
        return {task: decibels(mean) for (task, who, target), mean in means.items() if (who, target) == (MODEL, NOISY)}

    @property
    def is_fullshot(self) -> bool:
        """Whether it was trained on the set that it is scored on."""
        return self.job.data.shot == "full"

    @property
    def zeroshot(self) -> float | None:
        """The tasks' linear means averaged, dB (as Fig. 4 of the HeterCSI paper); None of a full-shot run."""
        return None if self.is_fullshot else self._mean_of_tasks

    @property
    def fullshot(self) -> float | None:
        """The same on the set that the run was trained on; None of any other run."""
        return self._mean_of_tasks if self.is_fullshot else None

    @property
    def _mean_of_tasks(self) -> float | None:
        linear = [10 ** (value / 10) for value in self.task_averages.values()]
        return decibels(float(np.mean(linear))) if linear else None
