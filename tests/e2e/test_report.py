"""``wavetrain report`` over real runs: finished, failed and running, of both families of models."""

import json
import re
import shutil
from pathlib import Path

import pytest

from channels.files import write_json
from orchestrator.run.folder import RunDirectory, run_lock
from orchestrator.spec.job import JobSpec
from tests.e2e.runs import Place
from tests.jobs_for_tests import small_job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def finished(place: Place, small_store: Path, undisturbed: JobSpec) -> tuple[str, str]:
    """Names of a finished HeterCSI run and of a finished WiMamba run."""
    wimamba = {"name": "wimamba", "size": "tiny", "patches": [2, 4]}
    job = small_job(
        small_store, "snapshots", replace_model=wimamba, data={"samples": 4}, scale={"workers": 1},
        train={"epochs": 1, "warmup_epochs": 0.1}, evaluation={"samples": 2},
    )  # fmt: skip
    done = place.run("train", str(place.spec(job)))
    assert done.returncode == 0, done.stderr
    return undisturbed.name, job.name


def report(place: Place, *arguments: str) -> str:
    """The page that a report wrote."""
    done = place.run("report", *arguments, "--out", "page.html")
    assert done.returncode == 0, done.stderr
    return (place.folder / "page.html").read_text()


def test_a_finished_run_beside_a_snapshot_model(place: Place, finished: tuple[str, str]) -> None:
    first, snapshots = finished
    page = report(place, first, snapshots)
    assert f"{first} padded least" in page or f"{snapshots} padded least" in page
    assert "scored on different sets or tasks" in page
    assert page.count("<svg") == 4 and "reconstruction_2x2" in page and "reconstruction_4x4" in page
    links = re.findall(r'(?:src|href)="(?!#)([^"]+)"', page)
    assert not links, "the page must need nothing beside itself"
    names = {path.name for path in place.folder.glob("page.*")}
    assert {"page.runs.csv", "page.steps.csv", "page.zeroshot.csv", "page.curves.png", "page.plan.png"} <= names
    score = next(
        row
        for row in json.loads((place.directory(first) / "results" / "zeroshot.json").read_text())["scores"]
        if (row["task"], row["set_name"], row["predictor"], row["target"]) == ("time", "H1", "model", "noisy")
    )
    assert f">{score['nmse_db']:.2f}</td>" in page
    assert "evaluation" in page and place.state(first)["goodput"]["seconds"]["evaluation"] > 0


def test_a_failed_run_tells_why(place: Place, small_store: Path) -> None:
    overshoot = {"lr": 1e30, "warmup_epochs": 0.0, "clip_norm": 0.0}
    job = small_job(small_store, "diverged", train=overshoot, scale={"workers": 1})
    assert place.run("train", str(place.spec(job))).returncode == 1
    page = report(place, "diverged")
    assert "diverged ended FAILED" in page and "NaN or infinite" in page and "No run has been scored yet" in page


def test_a_running_run_is_provisional(place: Place, undisturbed: JobSpec) -> None:
    running = RunDirectory(place.folder / "runs" / "running")
    shutil.copytree(
        place.directory(undisturbed.name), running.path, ignore=shutil.ignore_patterns("results", "ray_train")
    )
    lines = running.events.read_text().splitlines(keepends=True)
    running.events.write_text("".join(lines[:12]) + lines[12][:20])
    state = running.read_state()
    write_json(running.state, state | {"status": "RUNNING"})
    with run_lock(running):
        page = report(place, "running")
    assert "running is running" in page and "provisional" in page and "goes on" in page
    running.events.unlink()
    with run_lock(running):
        assert "No step has been logged" in report(place, "running")


def test_bad_input_is_one_line(place: Place, undisturbed: JobSpec) -> None:
    name = undisturbed.name
    for arguments in (["nothing"], [name, "--out", "page.pdf"], [name, "--out", "nowhere/page.html"]):
        done = place.run("report", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
