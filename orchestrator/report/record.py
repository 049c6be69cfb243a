"""What a report tells of a run: read from the run's own files, whether it has finished, failed or goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from orchestrator.evaluation.nmse import MODEL, NOISY, Score, averages, decibels
from orchestrator.evaluation.table import read_results
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec

Event = Mapping[str, Any]
Series = NDArray[np.float64]


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
class Attempt:
    """One life of the worker group. outcome: ``finished``, ``stopped``, or None where it broke off or goes on."""

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
class TimeBudget:
    """Seconds of a run. repeated: the part of compute and data wait whose steps were lost and done again.

    evaluation is None where the zero-shot table has not been made.
    """

    compute: float
    data_wait: float
    checkpoint: float
    evaluation: float | None
    repeated: float


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
    budget: TimeBudget
    scores: tuple[Score, ...]

    @property
    def done(self) -> int:
        """Optimizer steps done."""
        return int(self.steps.step[-1]) if len(self.steps.step) else 0

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
        """Zero-shot NMSE of the model by task, dB of the linear mean over the sets, noisy target."""
        means = averages(self.scores)
        return {task: decibels(mean) for (task, who, target), mean in means.items() if (who, target) == (MODEL, NOISY)}

    @property
    def zeroshot(self) -> float | None:
        """The tasks' linear means averaged, dB (as Fig. 4 of the HeterCSI paper)."""
        linear = [10 ** (value / 10) for value in self.task_averages.values()]
        return decibels(float(np.mean(linear))) if linear else None


def read_run(directory: RunDirectory, status: str, reason: str | None = None) -> RunRecord:
    """Gather a run's files. status, reason: as ``wavetrain status`` says.

    Raises:
        UserError: the run has not begun.
    """
    if not directory.spec.exists() or not directory.plan.exists():
        mend = f"it is {status}; report it once it has begun"
        raise UserError(f"run {directory.path.name!r} has no plan yet", where=str(directory.path), mend=mend)
    job, plan = directory.read_spec(), json.loads(directory.plan.read_text())
    events, _ = read_events(directory.events)
    lives = split_attempts(events)
    counted = [event for event in events if event["kind"] == "step"]
    kept = list({event["step"]: event for event in counted}.values())
    scored = (directory.results / "zeroshot.json").exists()
    state = directory.read_state()
    return RunRecord(
        name=directory.path.name,
        status=status,
        reason=reason,
        job=job,
        plan=plan,
        total_steps=int(plan["total_steps"]),
        steps=make_steps(sorted(kept, key=lambda event: event["step"]), lives, plan["samples"]),
        epochs=_epochs(events),
        attempts=tuple(_attempt(life) for life in lives),
        remarks=tuple(_remarks(events, state.get("failures", ()))),
        checkpoints=tuple(int(event["step"]) for event in events if event["kind"] == "checkpoint"),
        budget=_budget(events, counted, kept, job.tracking.every_steps, state.get("evaluation_s")),
        scores=tuple(read_results(directory.results)) if scored else (),
    )


def split_attempts(events: Sequence[Event]) -> list[list[Event]]:
    """Events of every attempt, its ``attempt`` event first."""
    lives: list[list[Event]] = []
    for event in events:
        if event["kind"] == "attempt":
            lives.append([])
        if lives:
            lives[-1].append(event)
    return lives


def make_steps(kept: Sequence[Event], lives: Sequence[Sequence[Event]], samples: int) -> Steps:
    """Series of step events in ascending order; ``samples``: of an epoch."""
    return Steps(
        step=np.asarray([event["step"] for event in kept], np.float64),
        samples=_series(kept, "train/epoch") * samples,
        wall_s=np.asarray([_wall(event["time"], lives) for event in kept], np.float64),
        loss=_series(kept, "train/loss"),
        lr=_series(kept, "train/lr"),
        padding=_series(kept, "data/padding_ratio"),
        seconds=_series(kept, "perf/step_ms") / 1e3,
        tokens_per_s=_series(kept, "perf/tokens_per_s"),
    )


def _series(events: Sequence[Event], metric: str) -> Series:
    return np.asarray([event["metrics"][metric] for event in events], np.float64)


def _wall(moment: float, lives: Sequence[Sequence[Event]]) -> float:
    """Seconds of all attempts up to a moment."""
    lasted = (min(life[-1]["time"], moment) - life[0]["time"] for life in lives if life[0]["time"] <= moment)
    return float(sum(lasted))


def _epochs(events: Sequence[Event]) -> tuple[Mapping[str, float], ...]:
    """Metrics of the epochs, the last telling of each."""
    return tuple({event["step"]: event["metrics"] for event in events if event["kind"] == "epoch"}.values())


def _attempt(life: Sequence[Event]) -> Attempt:
    first, last = life[0], life[-1]
    steps = [event["step"] for event in life if event["kind"] in ("step", "checkpoint")]
    ends = [event["outcome"] for event in life if event["kind"] == "end"]
    return Attempt(
        first_step=int(first["step"]),
        last_step=int(max(steps, default=first["step"])),
        workers=int(first["world"]),
        device=str(first["device"]),
        seconds=last["time"] - first["time"],
        outcome=ends[-1] if ends else None,
    )


def _remarks(events: Sequence[Event], failures: Sequence[Mapping[str, Any]]) -> list[Remark]:
    """Told by the worker group, and failures of attempts as ``state.json`` lists them, in the order of time."""
    told, step = [], 0
    for event in events:
        step = int(event.get("step", step))
        if event["kind"] in ("warning", "note", "diverged"):
            told.append((event["time"], Remark(event["kind"], step, event.get("text") or event.get("cause", ""))))
    for failure in failures:
        before = [
            int(event["step"]) for event in events if event["kind"] == "step" and event["time"] <= failure["time"]
        ]
        where = [f"{name} {failure[name]}" for name in ("rank", "node") if failure.get(name) is not None]
        text = ", ".join([str(failure["kind"]), *where]) + f": {failure['cause']}"
        told.append((failure["time"], Remark("failure", before[-1] if before else 0, text)))
    return [remark for _, remark in sorted(told, key=lambda pair: pair[0])]


def _budget(
    events: Sequence[Event], counted: Sequence[Event], kept: Sequence[Event], stride: int, evaluation_s: float | None
) -> TimeBudget:
    """``stride``: steps for which a logged one stands (tracking.every_steps)."""
    spent, useful = (stride * _series(steps, "perf/step_ms").sum() / 1e3 for steps in (counted, kept))
    wait = stride * _series(counted, "perf/data_wait_ms").sum() / 1e3
    stalls = [event["metrics"]["perf/checkpoint_stall_ms"] for event in events if event["kind"] == "checkpoint"]
    return TimeBudget(
        compute=float(spent - wait),
        data_wait=float(wait),
        checkpoint=sum(stalls) / 1e3,
        evaluation=evaluation_s,
        repeated=float(spent - useful),
    )
