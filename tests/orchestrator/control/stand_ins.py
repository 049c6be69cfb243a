"""What the controller works with, without Ray: a group that follows a script, an MLflow that may be away."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.errors import UserError
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from orchestrator.view.live import LiveView


class ScriptedGroup:
    """Does one thing of a script each time it is waited for, and is alive until the script is over."""

    def __init__(self, script: Sequence[Callable[[], object]], error: BaseException | None = None) -> None:
        self._script, self._error = list(script), error
        self.is_started = False

    def start(self) -> None:
        self.is_started = True

    def is_alive(self) -> bool:
        return self.is_started and bool(self._script)

    def join(self, timeout: float | None = None) -> None:
        self._script.pop(0)()

    def reraise(self) -> None:
        if self._error is not None:
            raise self._error


class NoScores:
    """Has no epoch to score."""

    is_cancelled = False

    def poll(self, timeout_s: float = 0.0) -> bool:
        return False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeTracker:
    """An MLflow run that keeps what it is sent; ``answers`` is asked before every call."""

    run_id, experiment_id, last_step = "run", "1", -1

    def __init__(self, answers: Callable[[], bool] = lambda: True) -> None:
        self._answers = answers
        self.tagged: dict[str, str] = {}
        self.status = "RUNNING"

    def _ask(self) -> None:
        if not self._answers():
            raise UserError("MLflow is away")

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._ask()

    def tags(self, tags: Mapping[str, str]) -> None:
        self._ask()
        self.tagged |= tags

    def metrics(self, values: Mapping[str, float], step: int, time_s: float) -> None:
        self._ask()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self._ask()

    def dataset(self, *values: str) -> None:
        self._ask()

    def drain(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._ask()

    def end(self, status: str, time_s: float | None = None) -> None:
        self._ask()
        self.status = status


def a_view() -> tuple[LiveView, io.StringIO]:
    stream = io.StringIO()
    return LiveView(stream=stream), stream


def begin_attempt(directory: RunDirectory, *machines: str) -> Callable[[], None]:
    """What rank 0 writes when an attempt begins."""
    fields = {"world": len(machines), "device": "cpu", "total_steps": 100, "epochs": 4, "step": 0}
    return lambda: _write(directory.events, "attempt", machines=list(machines), rank_machines=list(machines), **fields)


def end_attempt(directory: RunDirectory, outcome: str) -> Callable[[], None]:
    """What rank 0 writes when an attempt has ended by itself."""
    return lambda: _write(directory.events, "end", outcome=outcome, step=100, train_s=1.0)


def fail_attempt(
    directory: RunDirectory, rank: int | None, cause: str, retry: bool = True, **left_out: str
) -> Callable[[], None]:
    """What the failure policy writes."""
    failure = {"kind": "worker", "cause": cause, "rank": rank, "time": 0.0, "node": None}
    fields = {"failure": failure, "retry": retry, "wait_s": 1.0 if retry else None, "left_out": left_out}
    return lambda: _write(directory.failures, "failure", **fields)


def _write(path: Path, kind: str, **fields: Any) -> None:
    with EventWriter(path) as writer:
        writer.write(kind, **fields)
