"""Reading the record of a run from the run's own files, whether it has finished, failed or goes on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from channels.errors import UserError
from orchestrator.report.record import Attempt, Remark, RunRecord, Steps, ValidationSeries
from orchestrator.report.results import read_results
from orchestrator.report.series import Series
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.run.ledger_reader import LedgerReader

Event = Mapping[str, Any]


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
    attempts = _split_attempts(events)
    counted = [event for event in events if event["kind"] == "step"]
    kept = list({event["step"]: event for event in counted}.values())
    state = directory.read_state()
    return RunRecord(
        name=directory.path.name,
        status=status,
        reason=reason,
        job=job,
        plan=plan,
        total_steps=int(plan["total_steps"]),
        steps=_series_of_steps(sorted(kept, key=lambda event: event["step"]), attempts, plan["samples"]),
        epochs=_epochs(events),
        attempts=tuple(_attempt(attempt) for attempt in attempts),
        remarks=tuple(_remarks(events, state.get("failures", ()))),
        checkpoints=tuple(int(event["step"]) for event in events if event["kind"] == "checkpoint"),
        stall_s=_mean_stall(events),
        ledger=LedgerReader(directory).advance(),
        scores=tuple(read_results(directory.results, job.data.shot)),
        validation=_validation(read_events(directory.scores)[0]),
        caveats=tuple(state.get("caveats", ())),
        on_published_sets=bool(state.get("published_sets", False)),
    )


def _split_attempts(events: Sequence[Event]) -> list[list[Event]]:
    """Events of every attempt, its ``attempt`` event first."""
    attempts: list[list[Event]] = []
    for event in events:
        if event["kind"] == "attempt":
            attempts.append([])
        if attempts:
            attempts[-1].append(event)
    return attempts


def _series_of_steps(kept: Sequence[Event], attempts: Sequence[Sequence[Event]], samples: int) -> Steps:
    """Series of step events in ascending order; ``samples``: of an epoch."""
    return Steps(
        step=np.asarray([event["step"] for event in kept], np.float64),
        samples=_series(kept, "train/epoch") * samples,
        wall_s=np.asarray([_trained_until(event["time"], attempts) for event in kept], np.float64),
        loss=_series(kept, "train/loss"),
        lr=_series(kept, "train/lr"),
        padding=_series(kept, "data/padding_ratio"),
        seconds=_series(kept, "perf/step_ms") / 1e3,
        tokens_per_s=_series(kept, "perf/tokens_per_s"),
    )


def _validation(events: Sequence[Event]) -> ValidationSeries | None:
    by_step = {event["step"]: event["metrics"] for event in events if "val/loss" in event["metrics"]}
    if not by_step:
        return None
    steps = sorted(by_step)
    loss, nmse = ([by_step[step][name] for step in steps] for name in ("val/loss", "val/nmse_db/avg"))
    return ValidationSeries(*(np.asarray(values, np.float64) for values in (steps, loss, nmse)))


def _series(events: Sequence[Event], metric: str) -> Series:
    return np.asarray([event["metrics"][metric] for event in events], np.float64)


def _trained_until(moment: float, attempts: Sequence[Sequence[Event]]) -> float:
    """Seconds of all attempts up to a moment."""
    begun = [attempt for attempt in attempts if attempt[0]["time"] <= moment]
    return float(sum(min(attempt[-1]["time"], moment) - attempt[0]["time"] for attempt in begun))


def _epochs(events: Sequence[Event]) -> tuple[Mapping[str, float], ...]:
    """Metrics of the epochs; of one that was trained again, those of the last time."""
    return tuple({event["step"]: event["metrics"] for event in events if event["kind"] == "epoch"}.values())


def _attempt(events: Sequence[Event]) -> Attempt:
    first, last = events[0], events[-1]
    steps = [event["step"] for event in events if event["kind"] in ("step", "checkpoint")]
    ends = [event["outcome"] for event in events if event["kind"] == "end"]
    return Attempt(
        first_step=int(first["step"]),
        last_step=int(max(steps, default=first["step"])),
        workers=int(first["world"]),
        device=str(first["device"]),
        seconds=last["time"] - first["time"],
        outcome=ends[-1] if ends else None,
    )


def _remarks(events: Sequence[Event], failures: Sequence[Mapping[str, Any]]) -> list[Remark]:
    """What the worker group wrote down, and failures of attempts as ``state.json`` lists them, in the order of time."""
    found, step = [], 0
    for event in events:
        step = int(event.get("step", step))
        if event["kind"] in ("warning", "note", "diverged"):
            found.append((event["time"], Remark(event["kind"], step, event.get("text") or event.get("cause", ""))))
    for failure in failures:
        before = [
            int(event["step"]) for event in events if event["kind"] == "step" and event["time"] <= failure["time"]
        ]
        where = [f"{name} {failure[name]}" for name in ("rank", "node") if failure.get(name) is not None]
        text = ", ".join([str(failure["kind"]), *where]) + f": {failure['cause']}"
        found.append((failure["time"], Remark("failure", before[-1] if before else 0, text)))
    return [remark for _, remark in sorted(found, key=lambda pair: pair[0])]


def _mean_stall(events: Sequence[Event]) -> float:
    stalls = [event["metrics"]["perf/checkpoint_stall_ms"] for event in events if event["kind"] == "checkpoint"]
    return float(np.mean(stalls)) / 1e3 if stalls else 0.0
