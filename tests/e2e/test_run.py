"""Whole runs in real processes: train, evaluate, track; kill, stop and resume with nothing changed."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from channels.store import ChannelStore
from models.export import load_model
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from tests.e2e.runs import (
    EPOCHS,
    RUN_TIMEOUT_S,
    STEPS,
    Place,
    assert_all_gone,
    at_rest,
    family,
    job_for,
    session_folders,
    training_ranks,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_run_learns_covers_every_sample_and_is_tracked(place: Place, undisturbed: JobSpec) -> None:
    losses = place.losses("undisturbed")
    steps = sorted(losses)
    assert steps == list(range(1, STEPS + 1))
    assert sum(losses[step] for step in steps[-5:]) < 0.7 * sum(losses[step] for step in steps[:5])
    epochs = place.events("undisturbed", "epoch")
    assert [event["metrics"]["data/coverage"] for event in epochs] == [1.0] * EPOCHS
    assert [event["metrics"]["data/repeated"] for event in epochs] == [0.0] * EPOCHS
    tracked = place.tracked("undisturbed")
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["batching.global_batch"] == "16"
    assert tracked.data.params["model.size"] == "tiny"
    assert tracked.data.tags["world_size"] == "2" and tracked.data.tags["attempt"] == "1"
    assert place.history("undisturbed", "train/loss") == [(step, losses[step]) for step in steps]
    for name in ("data/padding_ratio", "time/train_s", "eval/nmse_db/reconstruction/avg", "eval/nmse_db/time/H1"):
        assert name in tracked.data.metrics, name


def test_the_exported_model_scores_as_the_run_did(place: Place, undisturbed: JobSpec) -> None:
    directory = place.directory("undisturbed")
    spec, _ = load_model(directory / "model")
    assert spec.name == "hetercsi"
    written = json.loads((directory / "results" / "zeroshot.json").read_text())["scores"]
    assert {row["set_name"] for row in written} == {"H1", "H2"}
    store = ChannelStore.open(undisturbed.data.store)
    again = evaluate_set(directory / "model", store.path, "H1", undisturbed)
    expected = {
        (row["task"], row["predictor"], row["target"]): row["nmse"] for row in written if row["set_name"] == "H1"
    }
    found = {(score.task, score.predictor, score.target): score.nmse for score in again}
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(row["samples"] == 10 for row in written)


def test_evaluate_prints_json(place: Place, undisturbed: JobSpec) -> None:
    done = place.run("evaluate", "undisturbed", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {row["task"] for row in document["averages"]} == {"reconstruction", "time", "frequency"}


def test_a_finished_run_is_not_started_again(place: Place, undisturbed: JobSpec) -> None:
    done = place.run("train", str(place.spec(undisturbed)))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "exists and is finished" in done.stderr


def test_a_killed_rank_a_killed_controller_and_ctrl_c_change_nothing(
    place: Place, small_store: Path, undisturbed: JobSpec
) -> None:
    """A rank dies and is replaced by Ray Train; then everything dies with the controller; the same command goes on, is
    interrupted, and goes on to the end, where a stop comes too late to be one."""
    spec = place.spec(job_for(small_store, "killed"))
    first = place.start("train", str(spec))
    place.wait_for_step("killed", 10, first)
    workers = training_ranks(family(first))
    assert len(workers) == 2
    workers[1].kill()
    assert_all_gone(workers[1:])
    everyone = family_after_more_steps(place, first, attempt=2)
    with at_rest(training_ranks(everyone)):
        assert len(place.events("killed", "attempt")) == 2
        first.kill()
        first.communicate()
    assert_all_gone(everyone)
    stopped_at = interrupt_after_a_few_steps(place, spec)
    assert place.tracked("killed").info.status == "KILLED"
    assert f"resumes after step {stopped_at}" in stop_once_finished(place, spec)
    assert place.losses("killed") == place.losses("undisturbed")
    assert place.weights("killed") == place.weights("undisturbed")
    assert place.state("killed")["attempts"] == 4
    assert place.tracked("killed").info.status == "FINISHED"
    assert place.history("killed", "train/loss") == place.history("undisturbed", "train/loss")
    epochs = place.events("killed", "epoch")
    assert {event["metrics"]["data/coverage"] for event in epochs} == {1.0}


def family_after_more_steps(place: Place, process: "subprocess.Popen[str]", attempt: int) -> list[psutil.Process]:
    """The processes of an attempt once it has made steps of its own.

    They are looked for before that: a look takes as long as many steps, and the run would come to its end meanwhile.
    """
    last = place.events("killed")[-1]["step"]
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while len(place.events("killed", "attempt")) < attempt:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    everyone = family(process)
    place.wait_for_step("killed", last + 3, process)
    return everyone


def interrupt_after_a_few_steps(place: Place, spec: Path) -> int:
    """Give the command again, and press Ctrl-C when it trains; the step at which it stops."""
    process = place.start("train", str(spec))
    everyone = family_after_more_steps(place, process, attempt=3)
    with at_rest(training_ranks(everyone)):
        (folder,) = session_folders(everyone)
        assert folder.stat().st_mode & 0o777 == 0o700, "others may not look into it, whatever Ray lets them do inside"
        process.send_signal(signal.SIGINT)
        # A fast machine would come to the end before the controller has passed it on.
        wait_for_request(place)
    out, error = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == 130, (out, error)
    assert "resumes after step" in error
    assert_all_gone(everyone)
    last = int(place.events("killed")[-1]["step"])
    assert place.events("killed", "checkpoint")[-1]["step"] == last
    assert last < STEPS
    return last


def wait_for_request(place: Place) -> None:
    """Until the ranks are asked to stop."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not RunDirectory(place.directory("killed")).stop_request.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop_once_finished(place: Place, spec: Path) -> str:
    """Give the command again, and send SIGTERM when its state says FINISHED; what it says on stderr."""
    process = place.start("train", str(spec))
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while place.state("killed")["status"] != "FINISHED":
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == 0 and "wavetrain ui" in out, (out, error)
    return error


def test_copies_of_shards_on_the_node_change_nothing(place: Place, small_store: Path, undisturbed: JobSpec) -> None:
    job = job_for(
        small_store, "partition", checkpoint={"every_steps": 7, "keep_best": True},
        data={"placement": "partition", "cache_gb": 0.1}, evaluation={"every_epochs": 4},
    )  # fmt: skip
    done = place.run("train", str(place.spec(job)))
    assert done.returncode == 0, done.stderr
    check_the_best_is_kept(place, "partition")
    assert place.weights("partition") == place.weights("undisturbed")
    moved = place.history("partition", "data/shard_bytes_moved")
    stored = sum(path.stat().st_size for path in small_store.rglob("train-*.safetensors"))
    assert moved[-1][1] == stored
    assert place.history("partition", "data/shard_cache_misses")[-1][1] == 12
    assert not list((place.folder / "cache").rglob("*.safetensors"))


def check_the_best_is_kept(place: Place, name: str) -> None:
    """Scores of two epochs and of the end; the best export on the validation samples, and the state of its step."""
    scores = dict(place.history(name, "val/nmse_db/avg"))
    assert sorted(scores) == [48, 96, STEPS]
    loss = dict(place.history(name, "val/loss"))
    assert sorted(loss) == [48, 96, STEPS] and loss[STEPS] < loss[48]
    assert [step for step, _ in place.history(name, "eval/nmse_db/avg")] == [48, 96, STEPS]
    assert [step for step, _ in place.history(name, "eval/nmse_db/time/H1")] == [48, 96, STEPS]
    best = min(scores, key=lambda step: scores[step])
    score = json.loads((place.directory(name) / "model-best" / "score.json").read_text())
    assert score["step"] == best and score["nmse_db"] == scores[best] and score["select"] == "val"
    recorded, _ = read_events(place.directory(name) / "scores.jsonl")
    assert {entry["step"]: entry["metrics"]["val/loss"] for entry in recorded} == loss
    assert load_model(place.directory(name) / "model-best")[0].name == "hetercsi"
    assert (place.directory(name) / "checkpoints" / f"step-{best:09d}").is_dir()
    assert not list((place.directory(name) / "exports").iterdir())
