"""``wavetrain status --watch`` on a run that another process works on."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.cli import runs as runs_commands
from jobs.launch import watch as watching
from jobs.launch.job_state import JobState
from jobs.launch.run_list import newest_run
from jobs.launch.run_status import RunStatus, run_status
from jobs.launch.watch import watch
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from orchestrator.view.live import LiveView
from tests.jobs.launches import job_of

ATTEMPT = {"step": 0, "total_steps": 3, "world": 2, "device": "cpu", "epochs": 1}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run under Slurm whose first step is done."""
    directory = RunDirectory(tmp_path / "runs" / "demo")
    directory.path.mkdir(parents=True)
    write_json(directory.spec, job_of().model_dump(mode="json"))
    directory.update_state(status="RUNNING", attempts=1)
    directory.launch.mkdir()
    write_json(directory.launch / "submission.json", {"launcher": "slurm", "job_id": "7", "logs": "none"})
    with EventWriter(directory.events) as events:
        events.write("attempt", **ATTEMPT)
    add_step(directory, 1)
    return directory


def add_step(directory: RunDirectory, step: int) -> None:
    metrics = {
        "train/loss": 0.5, "train/epoch": step / 3, "perf/tokens_per_s": 1000.0, "perf/step_ms": 200.0,
        "data/padding_ratio": 0.1, "perf/data_wait_ms": 0.0,
    }  # fmt: skip
    with EventWriter(directory.events) as events:
        events.write("step", step=step, metrics=metrics)


def followed(
    directory: RunDirectory, query: Any, *meanwhile: Callable[[], None], query_s: float = watching.QUERY_S
) -> tuple[RunStatus | None, str]:
    """Watch a run with these things happening between one look at it and the next; how it ended and what was shown."""
    stream, happening = io.StringIO(), iter(meanwhile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: next(happening)()))
        patch.setattr(watching, "QUERY_S", query_s)
        ended = watch(directory, query, LiveView(title="demo", stream=stream))
    return ended, stream.getvalue()


def nothing() -> None:
    return


def test_watching_ends_with_the_run(run: RunDirectory) -> None:
    def go_on() -> None:
        for step in (2, 3):
            add_step(run, step)
        run.update_state(status="FINISHED")

    ended, text = followed(run, lambda submission: JobState("RUNNING"), go_on)
    assert ended is not None and ended.state == "FINISHED"
    assert "run demo: RUNNING" in text and "step 1/3" in text and "step 3/3" in text
    assert "run demo: FINISHED" in text


def add_scores(directory: RunDirectory, step: int, **metrics: float) -> None:
    with EventWriter(directory.scores) as scores:
        scores.write("scores", step=step, metrics={name.replace("__", "/"): value for name, value in metrics.items()})


def test_scores_beside_the_training_are_shown(run: RunDirectory) -> None:
    add_scores(run, 1, val__loss=0.9, val__nmse_db__avg=-1.5, eval__nmse_db__avg=-0.5)

    def go_on() -> None:
        add_scores(run, 2, val__loss=0.4, val__nmse_db__avg=-3.25, eval__nmse_db__avg=-2.0)
        run.update_state(status="FINISHED")

    ended, text = followed(run, lambda submission: JobState("RUNNING"), go_on)
    assert "step 1: validation loss 0.9000, NMSE -1.50 dB; zero-shot NMSE -0.50 dB" in text
    assert text.count("step 2: validation loss 0.4000, NMSE -3.25 dB; zero-shot NMSE -2.00 dB") == 1
    assert ended is not None
    assert (ended.scored_step, ended.validation_nmse_db, ended.zeroshot_nmse_db) == (2, -3.25, -2.0)


def test_a_run_without_scores_has_none(run: RunDirectory) -> None:
    status = run_status(run, lambda submission: JobState("RUNNING"))
    assert (status.scored_step, status.validation_nmse_db, status.zeroshot_nmse_db) == (None, None, None)


def test_watching_tells_what_slurm_says(run: RunDirectory) -> None:
    states = iter([JobState("PENDING", "Resources"), JobState("RUNNING"), JobState("FAILED", "NODE_FAIL")])
    ended, text = followed(run, lambda submission: next(states), nothing, nothing, query_s=0.0)
    assert ended is not None and (ended.state, ended.reason) == ("FAILED", "NODE_FAIL")
    said = [line for line in text.splitlines() if line.startswith("run demo: ")]
    assert said == ["run demo: PENDING (Resources)", "run demo: RUNNING", "run demo: FAILED (NODE_FAIL)"]


def test_a_run_that_waits_in_the_queue_can_be_watched(run: RunDirectory) -> None:
    run.events.unlink()
    run.state.unlink()
    states = iter([JobState("PENDING", "Priority"), JobState("KILLED", "CANCELLED")])
    ended, text = followed(run, lambda submission: next(states), nothing, query_s=0.0)
    assert ended is not None and ended.state == "KILLED"
    assert "PENDING (Priority)" in text and "step" not in text


def test_ctrl_c_leaves_and_the_run_goes_on(run: RunDirectory, tmp_path: Path) -> None:
    (run.launch / "submission.json").unlink()
    code = (
        "import sys; from pathlib import Path; from orchestrator.run.folder import RunDirectory, run_lock\n"
        "with run_lock(RunDirectory(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    piped: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], **piped) as controller:
        assert controller.stdout is not None and controller.stdout.readline() == "held\n"
        command = [sys.executable, "-m", "jobs.cli.main", "status", "--watch", "demo"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        watcher = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
        assert watcher.stderr is not None
        shown = ""
        while "run demo: RUNNING" not in shown:
            shown += (line := watcher.stderr.readline())
            assert line, shown
        watcher.send_signal(signal.SIGINT)
        _, rest = watcher.communicate(timeout=60)
        controller.communicate()
    assert watcher.returncode == 0, rest
    assert "step 1/3" in shown and "run demo goes on" in rest and "Traceback" not in rest
    assert run.read_state()["status"] == "RUNNING"


def test_a_line_of_json_comes_at_every_change(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "QUERY_S", float("inf"))
    asked: list[str] = []
    meanwhile = iter([lambda: None, lambda: add_step(run, 2), lambda: None, lambda: run.update_state(status="FAILED")])

    def ask(submission: Any) -> JobState:
        asked.append(submission["job_id"])
        return JobState("FAILED" if run.read_state()["status"] == "FAILED" else "RUNNING")

    def sleep(seconds: float) -> None:
        next(meanwhile)()
        if run.read_state()["status"] == "FAILED":
            monkeypatch.setattr(watching, "QUERY_S", 0.0)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(runs_commands, "query_launcher", ask)
    assert runs_commands._follow_in_json(run) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["state"], line["step"]) for line in lines] == [("RUNNING", 1), ("RUNNING", 2), ("FAILED", 2)]
    assert [line["progress"] for line in lines] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert [line["seconds_left"] for line in lines] == [pytest.approx(0.4), pytest.approx(0.2), None]
    assert asked == ["7", "7"], "a launcher is asked seldom"


def test_json_has_no_numbers_that_json_lacks(run: RunDirectory) -> None:
    with EventWriter(run.events) as events:
        events.write("step", step=2, metrics={"train/loss": float("nan"), "perf/step_ms": 200.0})
    fields = runs_commands._fields(run_status(run, lambda submission: JobState("RUNNING")))
    assert fields["loss"] is None and fields["progress"] == pytest.approx(2 / 3)
    json.dumps(fields, allow_nan=False)


def test_the_documented_fields_are_those_of_the_json() -> None:
    page = (Path(__file__).parents[3] / "docs" / "launching.md").read_text()
    text = page.partition("Each object has")[2].partition("\n")[0]
    assert [field.name for field in dataclasses.fields(RunStatus) if f"`{field.name}`" not in text] == []


def test_without_a_name_the_newest_run_is_watched(run: RunDirectory, tmp_path: Path) -> None:
    assert newest_run([tmp_path / "runs"]).path == run.path
    with pytest.raises(UserError, match="no run is there yet"):
        newest_run([tmp_path])
