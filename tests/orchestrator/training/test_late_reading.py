"""Reports of steps read one step late, as on CUDA: same numbers, and no state of a step whose loss nobody has seen."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job
from tests.orchestrator.training.test_worker import events_of, prepare


def work_with_lag(folder: str, lag: int) -> str:
    """One attempt of a worker that reads so many steps late; how it ended."""
    from orchestrator.run.failures import TrainingDivergedError
    from orchestrator.training.build import build
    from orchestrator.training.worker import train

    parts = build(WorkerConfig(Path(folder), "cpu"))
    parts.engine.lag = lag
    try:
        return train(parts)
    except TrainingDivergedError as error:
        return str(error)


def lagging_job(store: Path, name: str, **train: Any) -> JobSpec:
    return small_job(store, name, data={"samples": 20}, train={"epochs": 2, **train}, checkpoint={"every_steps": 4})


def test_late_reading_changes_no_number(ranks: Any, small_store: Path, tmp_path: Path) -> None:
    runs = {}
    for lag in (0, 1):
        directory = prepare(tmp_path / str(lag), lagging_job(small_store, "same"))
        assert ranks(2, work_with_lag, str(directory.path), lag) == ["finished"] * 2
        runs[lag] = directory
    at_once, late = ([event["metrics"]["train/loss"] for event in events_of(runs[lag], "step")] for lag in (0, 1))
    assert at_once == late and len(late) > 8
    for kind in ("step", "epoch"):
        numbers = [[event["step"] for event in events_of(runs[lag], kind)] for lag in (0, 1)]
        assert numbers[0] == numbers[1]
    weights = [(runs[lag].export / "model.safetensors").read_bytes() for lag in (0, 1)]
    assert weights[0] == weights[1]


def test_a_stop_read_late_saves_the_last_step_begun_and_the_run_goes_on(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    job = lagging_job(small_store, "stopped")
    straight, stopped = prepare(tmp_path / "straight", job), prepare(tmp_path / "stopped", job)
    assert ranks(2, work_with_lag, str(straight.path), 1) == ["finished"] * 2
    stopped.stop_request.touch()
    assert ranks(2, work_with_lag, str(stopped.path), 1) == ["stopped"] * 2
    stopped.stop_request.unlink()
    [end] = events_of(stopped, "end")
    assert end["step"] == 2
    assert [event["step"] for event in events_of(stopped, "step")] == [1, 2]
    assert [path.name for path in stopped.checkpoints.glob("step-*")] == ["step-000000002"]
    assert ranks(2, work_with_lag, str(stopped.path), 1) == ["finished"] * 2
    assert (stopped.export / "model.safetensors").read_bytes() == (straight.export / "model.safetensors").read_bytes()


@pytest.mark.parametrize("lag", [0, 1])
def test_a_diverged_step_reaches_no_state(ranks: Any, small_store: Path, tmp_path: Path, lag: int) -> None:
    """The first update throws the weights away, so the second loss is not finite; a state is due after it."""
    job = small_job(small_store, train={"lr": 1e30, "warmup_epochs": 0.0}, checkpoint={"every_steps": 2})
    directory = prepare(tmp_path / "diverging", job)
    messages = ranks(2, work_with_lag, str(directory.path), lag)
    assert messages[0] == messages[1] and "NaN or infinite" in messages[0] and "step 1 of" in messages[0]
    assert [event["step"] for event in events_of(directory, "step")] == [1]
    assert [event["step"] for event in events_of(directory, "diverged")] == [1]
    assert not list(directory.checkpoints.glob("step-*"))
