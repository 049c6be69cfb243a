"""Saving beside the training on two real ranks: nothing changes by it, requests are answered, time counts too."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.checkpoint import format as checkpoints
from orchestrator.monitoring.watchdog import Watchdog
from orchestrator.run.folder import RunDirectory
from orchestrator.training import loop as training_loop
from tests.attempts import prepare, work
from tests.jobs_for_tests import small_job

PATIENCE_S = 120.0


def steps_of(directory: RunDirectory, kind: str) -> list[int]:
    lines = [json.loads(line) for line in directory.events.read_text().splitlines()]
    return [event["step"] for event in lines if event["kind"] == kind]


def wait_until_there(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.01)


def test_saving_after_every_step_changes_nothing(ranks: Any, small_store: Path, tmp_path: Path) -> None:
    train = {"epochs": 1}
    often = prepare(tmp_path / "often", small_job(small_store, train=train, checkpoint={"every_steps": 1, "keep": 3}))
    never = prepare(
        tmp_path / "never", small_job(small_store, train=train, checkpoint={"every_steps": None, "every_minutes": 60})
    )
    for directory in (often, never):
        assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    weights = [(directory.export / "model.safetensors").read_bytes() for directory in (often, never)]
    assert weights[0] == weights[1]
    total = len(steps_of(often, "step"))
    assert steps_of(often, "checkpoint") == list(range(1, total + 1))
    assert steps_of(never, "checkpoint") == [total]
    assert len(list(often.checkpoints.glob("step-*"))) == 3
    assert not list(often.checkpoints.glob(".*"))


def test_time_makes_a_checkpoint_due(ranks: Any, small_store: Path, tmp_path: Path) -> None:
    job = small_job(
        small_store, train={"epochs": 1}, checkpoint={"every_steps": None, "every_minutes": 1e-6, "keep": 99}
    )
    directory = prepare(tmp_path / "run", job)
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    assert steps_of(directory, "checkpoint") == steps_of(directory, "step")


def test_a_group_that_is_to_be_resized_has_saved_and_waits(ranks: Any, small_store: Path, tmp_path: Path) -> None:
    directory = prepare(
        tmp_path / "run", small_job(small_store, train={"epochs": 200}, checkpoint={"every_steps": None})
    )
    outcome: list[str] = []
    group = threading.Thread(target=lambda: outcome.extend(ranks(2, work, str(directory.path))))
    group.start()
    # A rank that starts removes a request that was left; it has, once it says what it goes on with.
    deadline = time.monotonic() + PATIENCE_S
    while not (directory.events.exists() and steps_of(directory, "attempt")):
        assert time.monotonic() < deadline, "the run does not start"
        time.sleep(0.01)
    directory.pause_request.touch()
    wait_until_there(directory.paused)
    assert not directory.pause_request.exists()
    found = checkpoints.newest_complete(directory.checkpoints, print)
    assert found is not None and found[1].step == steps_of(directory, "step")[-1]
    time.sleep(0.5)
    assert found[1].step == steps_of(directory, "step")[-1], "it waits"
    directory.stop_request.touch()
    group.join(PATIENCE_S)
    assert outcome == ["stopped"] * 2
    assert not directory.paused.exists()


def test_ranks_agree_on_states_in_memory_under_the_eyes_of_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for each other there; a state is saved out of its sight, which takes the time it takes."""
    watchdog = Watchdog(tmp_path / "stacks", factor=10, floor_s=60)
    seen: list[tuple[str, bool]] = []
    state: Any = SimpleNamespace(
        after_step=lambda signals, **how: seen.append(("save", watchdog._is_paused)),
        agree=lambda: seen.append(("agree", watchdog._is_paused)),
    )
    nothing: Any = SimpleNamespace(
        skipped=lambda step: None, progress=SimpleNamespace(step=1), steps=lambda epoch: 9, total_steps=9
    )
    loop = training_loop.TrainingLoop(
        job=nothing, schedule=nothing, engine=nothing, skipped_steps=(), state=state, log=nothing, exporter=nothing,
        health=nothing, watchdog=watchdog, profile=nothing,
    )  # fmt: skip
    step = training_loop.SkippedStep(0, SimpleNamespace(epoch=0, step=0))  # type: ignore[arg-type]
    monkeypatch.setattr(training_loop.TrainingLoop, "_steps", lambda self, batches: iter([step]))
    loop._train([])
    assert seen == [("save", True), ("agree", False)]
