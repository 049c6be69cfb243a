"""Scores of epochs beside the training: the best model is kept, and what fails costs its scores only."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from channels.errors import UserError
from orchestrator.control import scoring
from orchestrator.control.epoch_scores import EpochScores
from orchestrator.control.scoring import Scores, Scoring, keep_if_best
from orchestrator.evaluation.score import Score
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.tracking.outbox import Outbox

FULL = OSError(errno.ENOSPC, "No space left on device")


class Scored(Scoring):
    """A scoring that is done."""

    def __init__(self, export: Path, nmse: float) -> None:
        super().__init__(export, [])
        self._nmse = nmse

    def poll(self, timeout_s: float) -> Scores:
        return Scores([Score("time", "H1", "model", "noisy", self._nmse, 10)])

    def cancel(self) -> None:
        pass


class Run:
    def __init__(self, folder: Path) -> None:
        self.directory = RunDirectory(folder)
        self.directory.exports.mkdir()
        self.outbox = Outbox(self.directory)
        self.said: list[str] = []
        self.nmse = iter((0.4, 0.1, 0.2))

    def export(self, step: int) -> Path:
        folder = self.directory.exports / f"step-{step:09d}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(f"weights of {step}")
        return folder

    def scores(self, start: Callable[[Path], Any] | None = None) -> EpochScores:
        return EpochScores(
            self.directory, start or (lambda export: Scored(export, next(self.nmse))), self.outbox, self.said.append
        )

    @property
    def best(self) -> int:
        return json.loads((self.directory.best / "score.json").read_text())["step"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_exports_are_scored_in_order_and_the_best_is_kept(run: Run) -> None:
    for step in (20, 10, 30):
        run.export(step)
    scores = run.scores()
    assert [scores.poll() for _ in range(4)] == [True, True, True, False]
    assert [line.split(":")[0] for line in run.said] == ["step 10", "step 20", "step 30"]
    assert [line.endswith("the best so far") for line in run.said] == [True, True, False]
    assert run.best == 20
    assert (run.directory.best / "model.safetensors").read_text() == "weights of 20"
    assert run.directory.read_state()["scored_step"] == 30 and not list(run.directory.exports.iterdir())
    assert [entry["step"] for entry in read_events(run.directory.tracking)[0]] == [10, 20, 30]
    run.export(10)
    assert not scores.poll() and not list(run.directory.exports.iterdir()), "an epoch that was repeated"


@pytest.mark.parametrize("where", ["outbox", "state", "best", "start"])
@pytest.mark.parametrize("error", [FULL, UserError("the disk is full")], ids=["as-it-is", "in-a-line"])
def test_a_full_disk_costs_the_scores_and_not_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    export = run.export(10)

    def full(*arguments: Any, **fields: Any) -> None:
        raise error

    if where == "outbox":
        monkeypatch.setattr(run.outbox, "metrics", full)
    if where == "state":
        monkeypatch.setattr(RunDirectory, "update_state", full)
    if where == "best":
        monkeypatch.setattr("orchestrator.control.epoch_scores.keep_if_best", full)
    scores = run.scores(full if where == "start" else None)
    assert scores.poll()
    assert len(run.said) == 1 and run.said[0].startswith(f"warning: {export.name} was not scored: ")
    assert not scores.poll() and not export.exists()


def test_a_task_that_fails_costs_its_scores(run: Run) -> None:
    class Failed(Scored):
        def poll(self, timeout_s: float) -> Scores:
            raise RayError("a node is gone\nand more")

    run.export(10)
    run.export(20)
    waiting = iter((Failed, Scored))
    scores = run.scores(lambda export: next(waiting)(export, 0.5))
    assert scores.poll() and scores.poll() and not scores.poll()
    assert run.said[0] == "warning: step-000000010 was not scored: a node is gone"
    assert run.best == 20


def test_the_best_model_stays_where_a_better_one_finds_no_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run.export(10), run.export(20)
    assert keep_if_best(run.directory, first, 0.4, 10, "zeroshot")

    def full(*arguments: Any) -> None:
        raise FULL

    monkeypatch.setattr(scoring, "write_json", full)
    with pytest.raises(UserError, match="the disk is full"):
        keep_if_best(run.directory, second, 0.1, 20, "zeroshot")
    assert run.best == 10 and (run.directory.best / "model.safetensors").read_text() == "weights of 10"
    assert not [path for path in run.directory.path.iterdir() if path.name.startswith(".model-best")]
