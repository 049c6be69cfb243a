"""One view of a run, wherever it runs: its own files, and what the launcher says of its job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import ENDED, Query, State
from orchestrator.run.event_tail import last_events
from orchestrator.run.file_lock import is_locked
from orchestrator.run.folder import RunDirectory


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A line of ``wavetrain status``, and with ``--json`` an object with these names."""

    name: str
    launcher: str
    job: str | None
    state: State
    attempt: int
    step: int
    total_steps: int | None
    progress: float | None
    """Share of all steps that are done, 0 to 1; None before the number of steps is known."""
    loss: float | None
    scored_step: int | None
    """Of the model that was scored last beside the training or after it."""
    validation_nmse_db: float | None
    zeroshot_nmse_db: float | None
    fullshot_nmse_db: float | None
    """Of a run that was trained on the set that it is scored on."""
    tokens_per_s: float | None
    seconds_left: float | None
    goodput: dict[str, Any] | None
    """``share`` of the wall time that went into steps which count, and ``seconds`` of its parts; as last written."""
    nodes: str | None
    """As the launcher names them, or those of the newest attempt."""
    reason: str | None


def run_status(directory: RunDirectory, query: Query) -> RunStatus:
    """Read the run's files, and ask the launcher where the files do not say that the run has ended."""
    submission = LaunchFolder(directory).read_submission()
    record = directory.read_state()
    state, reason, nodes = _state(directory, submission, record, query)
    attempt, step = _newest(directory.events)
    metrics = step.get("metrics", {})
    total, done = attempt.get("total_steps"), int(step.get("step", 0))
    _, scored = last_events(directory.scores, ("scores",)).get("scores", (0, {}))
    scores = scored.get("metrics", {})
    milliseconds = metrics.get("perf/step_ms")
    left = (total - done) * milliseconds / 1e3 if state == "RUNNING" and total and milliseconds else None
    return RunStatus(
        name=directory.path.name,
        launcher=str(submission.get("launcher", "local")),
        job=submission.get("job_id"),
        state=state,
        attempt=int(record.get("attempts", 0)),
        step=done,
        total_steps=total,
        progress=done / total if total else None,
        loss=metrics.get("train/loss"),
        scored_step=scored.get("step"),
        validation_nmse_db=scores.get("val/nmse_db/avg"),
        zeroshot_nmse_db=scores.get("eval/nmse_db/avg"),
        fullshot_nmse_db=scores.get("fullshot/nmse_db/avg"),
        tokens_per_s=metrics.get("perf/tokens_per_s"),
        seconds_left=left,
        goodput=record.get("goodput"),
        nodes=nodes or ",".join(attempt.get("machines", ())) or None,
        reason=reason,
    )


def _state(
    directory: RunDirectory, submission: Mapping[str, Any], record: Mapping[str, Any], query: Query
) -> tuple[State, str | None, str | None]:
    own: State = record.get("status", "UNKNOWN")
    cause = record.get("cause")
    if own == "FINISHED":
        return own, None, None
    job = query(submission) if submission else None
    is_trained = own == "RUNNING" and is_locked(directory.lock)
    if job is None and own == "RUNNING" and not is_trained:
        return "KILLED", "its controller is gone; the same command resumes the run", None
    # A run that is trained though its job has ended was started again by another command.
    if job is None or (is_trained and job.state in ENDED):
        return own, cause, None
    if job.state not in ENDED:
        return job.state, job.reason, job.nodes
    # The launcher knows that the job is over; the run itself knows better why.
    if own in ("FAILED", "KILLED"):
        return own, cause or job.reason, job.nodes
    state: State = "FAILED" if job.state == "FINISHED" else job.state
    return state, _attempt_cause(directory, submission) or job.reason, job.nodes


def _attempt_cause(directory: RunDirectory, submission: Mapping[str, Any]) -> str | None:
    """The cause that the newest attempt of the job wrote when it ended; None if it wrote none."""
    if submission.get("launcher") != "slurm":
        return None
    # The tasks of an array have ids of their own, no lower than that of the array.
    first = int(str(submission["job_id"]).partition("_")[0])
    attempts = [tuple(map(int, path.name.split("-"))) for path in directory.launch.glob("attempts/*-*")]
    job_id, restart = max(attempts, default=(-1, 0))
    end = directory.launch / "attempts" / f"{job_id}-{restart}" / "end.json"
    return json.loads(end.read_text())["cause"] if job_id >= first and end.exists() else None


def _newest(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last ``attempt`` and the last ``step``; no step where the attempt went back behind it."""
    found = last_events(path, ("attempt", "step"))
    begun, attempt = found.get("attempt", (-1, {}))
    made, step = found.get("step", (-1, {}))
    if made < begun and step and step["step"] > attempt["step"]:
        step = {"step": attempt["step"]}
    return attempt, step
