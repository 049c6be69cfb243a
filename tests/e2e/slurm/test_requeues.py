"""Attempts that a real Slurm ends before their time, each for another reason: what comes back, with which step."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.run.folder import RunDirectory
from tests.e2e.runs import Place, at_rest, processes_with, training_ranks
from tests.e2e.slurm.cluster import SlurmCluster, missing_programs, processes_of
from tests.e2e.slurm.runs import (
    EPOCHS,
    STEPS,
    first_attempts_at_rest,
    has_ended,
    hosts,
    job_for,
    job_of,
    meetings,
    other_host,
    output,
    submit,
    submit_urgent,
    wait_for_attempt,
)
from tests.jobs_for_tests import small_job

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.launching,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not installed: {', '.join(missing_programs())}"),
]
LIMIT, LEAD_S = "0:03:00", 20


def profile_on(place: Place, file: str, nodes: list[str], **section: Any) -> tuple[str, str]:
    """Options of ``submit`` for a profile that has so many nodes, and whose jobs run on no other ones."""
    cluster = yaml.safe_load((place.folder / "cluster.yaml").read_text())
    others = sorted({"node1", "node2", "node3", "node4"} - set(nodes))
    cluster["profiles"]["mini"]["slurm"] |= {"nodes": len(nodes), "exclude": others, **section}
    (place.folder / file).write_text(yaml.safe_dump(cluster))
    return ("--cluster-file", file)


@pytest.fixture(scope="module")
def limited(slurm: SlurmCluster, place: Place, small_store: Path) -> Iterator[str]:
    """A run with a limit of three minutes, which rests after some steps until it is asked to stop, beside the tests."""
    name = "limited"
    short = profile_on(place, "short.yaml", ["node4"], time=LIMIT, signal_lead_s=LEAD_S)
    job_id = submit(place, job_for(small_store, name, every_steps=2 * STEPS, workers=1), *short)
    request, over = RunDirectory(place.directory(name)).stop_request, threading.Event()

    def rest() -> None:
        with at_rest(training_ranks(wait_for_attempt(slurm, place, name, 1))):
            while not request.exists() and not over.wait(0.1):
                pass

    with ThreadPoolExecutor(1) as waiting:
        rested = waiting.submit(rest)
        yield name
        over.set()
        rested.result()
    with suppress(subprocess.CalledProcessError):
        # It is over, unless a test has failed.
        slurm.run("scancel", job_id)


@pytest.mark.usefixtures("limited")
def test_a_requeue_during_the_start_and_one_from_a_node_that_drains(
    slurm: SlurmCluster, place: Place, small_store: Path
) -> None:
    """The attempt after a broken start trains, also while its node drains; the next one goes elsewhere."""
    name = "requeued"
    job_id = submit(place, job_for(small_store, name, every_steps=2 * STEPS, epochs=1000))
    attempts = place.directory(name) / "launch" / "attempts"
    with at_rest(ray_head(slurm, job_id)):
        slurm.run("scontrol", "requeue", job_id)
        slurm.wait_for("the requeue", lambda: slurm.state(job_id) != "RUNNING", 60, look_s=0.02)
    wait_for_attempt(slurm, place, name, 1)
    assert not (attempts / f"{job_id}-0" / "ready-0.json").exists(), "the first start was not broken off"
    draining = other_host(attempts / f"{job_id}-1")
    slurm.run("scontrol", "update", f"NodeName={draining}", "State=DRAIN", "Reason=test")
    try:
        before = len(place.events(name))
        slurm.wait_for("steps on a node that drains", lambda: len(place.events(name)) > before + 3, 60)
        assert "DRAIN" in slurm.run("scontrol", "show", "node", draining)
        slurm.run("scontrol", "requeue", job_id)
        wait_for_attempt(slurm, place, name, 2)
    finally:
        slurm.run("scontrol", "update", f"NodeName={draining}", "State=RESUME")
    assert draining not in hosts(attempts / f"{job_id}-2")
    assert "Restarts=2" in slurm.run("scontrol", "show", "job", job_id)
    slurm.run("scancel", job_id)
    first, second = place.events(name, "attempt")
    saved = [event["step"] for event in place.events(name, "checkpoint") if event["time"] < second["time"]]
    assert first["step"] == 0 and second["step"] == (saved[-1] if saved else 0), output(place, name)
    slurm.wait_for_end(job_id, 120)


def test_a_sweep_is_an_array_whose_jobs_do_not_meet_and_of_which_one_alone_is_preempted(
    slurm: SlurmCluster, place: Place, small_store: Path
) -> None:
    job = small_job(small_store, "swept", train={"epochs": EPOCHS, "lr": 1e-3}, scale={"workers": 1},
                    data={"zeroshot_sets": ["H1"]})  # fmt: skip
    arguments = ("submit", str(place.spec(job)), "--sweep", "batching.buckets=1,2", "--parallel", "2")
    arguments += profile_on(place, "one-node.yaml", ["node1"])
    done = place.run(*arguments)
    assert done.returncode == 0, done.stderr
    names = ["swept.buckets-1", "swept.buckets-2"]
    array = job_of(place, names[0]).partition("_")[0]
    assert [job_of(place, name) for name in names] == [f"{array}_0", f"{array}_1"]
    assert "ArrayTaskThrottle=2" in slurm.run("scontrol", "show", "job", array)
    assert "0 to submit" in place.run(*arguments).stdout, "what is on its way is not submitted again"
    with first_attempts_at_rest(slurm, [(place, name) for name in names]):
        one, other = meetings(place, names)
        assert one["host"] == other["host"] == "node1"
        assert all(one[key] != other[key] for key in ("token", "address", "keepalive"))
        urgent, preempted = preempt_one(slurm, place, names)
    assert slurm.wait_for_end(urgent, 120) == "COMPLETED"
    for name in names:
        slurm.wait_for(f"end of {name}", lambda name=name: has_finished(place, name), 400)
        restarts = {path.name.rpartition("-")[2] for path in (launch_of(place, name) / "attempts").iterdir()}
        assert restarts == ({"0", "1"} if name == preempted else {"0"}), output(place, name)
        assert sorted(place.losses(name)) == list(range(1, STEPS + 1))
    parent = place.state("swept.sweep")["mlflow_run_id"]
    assert {place.tracked(name).data.tags["mlflow.parentRunId"] for name in names} == {parent}
    assert "zero-shot results" in place.run("logs", names[1]).stdout
    assert "0 to submit" in place.run(*arguments).stdout, "what is finished is not submitted again"


def test_a_limit_of_three_minutes_leaves_time_to_train(slurm: SlurmCluster, place: Place, limited: str) -> None:
    """It began before the other tests, so that there is little to wait for."""
    assert slurm.wait_for_end(job_of(place, limited)) == "COMPLETED", output(place, limited)
    # On a slow machine the second attempt meets its limit too.
    *stopped, last = (event["step"] for event in place.events(limited, "end"))
    assert stopped and stopped[0] > 0 and last == STEPS
    assert [event["step"] for event in place.events(limited, "attempt")] == [0, *stopped], output(place, limited)
    assert len(place.events(limited)) == STEPS


def ray_head(slurm: SlurmCluster, job_id: str) -> list[psutil.Process]:
    """The process that brings up the head of a job's Ray, as soon as it is there."""
    found: list[psutil.Process] = []

    def begun() -> bool:
        found[:] = processes_with("--head", processes_of(job_id))
        return bool(found)

    slurm.wait_for("the head of Ray", begun, 120, look_s=0.02)
    return found


def launch_of(place: Place, name: str) -> Path:
    return place.directory(name) / "launch"


def has_finished(place: Place, name: str) -> bool:
    """Whether a run has; one that was preempted is KILLED until it returns."""
    status = place.state(name)["status"] if has_ended(place, name) else None
    assert status != "FAILED", output(place, name)
    return status == "FINISHED"


def preempt_one(slurm: SlurmCluster, place: Place, names: list[str]) -> tuple[str, str]:
    """Have Slurm take back the CPU of one of two jobs on node1: the job that gets it, the run that loses it."""

    def state(name: str) -> str:
        return slurm.run("squeue", "-h", "-t", "all", "-j", job_of(place, name), "-o", "%T")

    # Of four CPUs two are free.
    urgent = submit_urgent(slurm, "-n1", "-c3", "-wnode1")
    slurm.wait_for("preemption", lambda: {state(name) for name in names} > {"RUNNING"}, 60)
    (preempted,) = (name for name in names if state(name) != "RUNNING")
    return urgent, preempted
