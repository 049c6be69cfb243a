"""Folders and records of runs for tests of reports."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from channels.files import write_json
from orchestrator.evaluation.score import Score
from orchestrator.report.record import RunRecord
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from tests.jobs_for_tests import small_job

TASKS = ("reconstruction", "time", "frequency")
PLAN = {
    "strategy": "bucket", "method": "optimal", "padding": 0.1, "samples": 40, "total_steps": 8, "steps": 4,
    "buckets": [
        {"longest": 12, "lengths": [[8, 10], [12, 10]]},
        {"longest": 16, "lengths": [[16, 20]]},
    ],
}  # fmt: skip


def step_event(step: int, beside_s: float = 0.0) -> dict[str, Any]:
    """A step of 0.5 s, 0.1 s of it waiting, with 80 valid of 100 tokens. beside_s: before it, since the last one."""
    metrics = {
        "train/loss": 1.0 / step, "train/lr": 1e-3, "train/epoch": step / 4, "data/padding_ratio": 0.2,
        "perf/tokens_per_s": 160.0, "perf/step_ms": 500.0, "perf/data_wait_ms": 100.0,
    }  # fmt: skip
    took = {"all_s": 0.5 + beside_s, "steps_s": 0.5, "wait_s": 0.1, "exchange_s": 0.0, "saving_s": beside_s}
    return {"kind": "step", "step": step, "metrics": metrics, "took": took}


def attempt(step: int) -> dict[str, Any]:
    return {"kind": "attempt", "step": step, "world": 2, "total_steps": 8, "device": "cpu"}


def a_run(
    folder: Path, events: Sequence[dict[str, Any]], times: Sequence[float], name: str = "a", **state: Any
) -> RunDirectory:
    """A run's folder with these events at these times."""
    directory = RunDirectory(folder / name)
    directory.path.mkdir(parents=True)
    write_json(directory.spec, small_job(folder / "store", name).model_dump(mode="json"))
    write_json(directory.plan, PLAN)
    directory.update_state(status="RUNNING", **state)
    with EventWriter(directory.events) as writer:
        for event, time in zip(events, times, strict=True):
            writer.write(**{**event, "time": time})
    return directory


def scored(record: RunRecord, name: str, nmse: float, sets: Sequence[str] = ("D1", "D2")) -> RunRecord:
    """The record under another name, with these errors."""
    scores = tuple(Score(task, set_name, "model", "noisy", nmse, 5) for task in TASKS for set_name in sets)
    return replace(record, name=name, status="FINISHED", scores=scores)
