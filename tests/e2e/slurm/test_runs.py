"""Runs on a real Slurm: to the end, over a time limit, preempted, with lost nodes, cancelled."""

import json
import os
from pathlib import Path

import psutil
import pytest
import yaml

from orchestrator.control.failure_policy import Failure, Kind
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from tests.e2e.runs import (
    Place,
    assert_all_gone,
    at_rest,
    processes_with,
    session_folders,
    train_without_ray,
    training_ranks,
)
from tests.e2e.slurm.cluster import SlurmCluster, missing_programs, processes_of
from tests.e2e.slurm.runs import (
    STEPS,
    attempt_at_rest,
    hosts,
    job_for,
    job_of,
    newest_attempt,
    other_host,
    output,
    submit,
    submit_urgent,
    wait_for_attempt,
    wait_for_stop_request,
)
from tests.jobs_for_tests import small_job
from tests.ranks import RankPools

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.launching,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not installed: {', '.join(missing_programs())}"),
]


@pytest.fixture(scope="module")
def undisturbed(ranks: RankPools, tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Place:
    """The folder of the run ``undisturbed``, which two ranks made without Slurm and without Ray."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    train_without_ray(place.directory("undisturbed"), job_for(small_store, "undisturbed"), ranks, world=2)
    return place


def assert_same_training(place: Place, name: str, undisturbed: Place) -> None:
    """Every loss and every byte of the weights."""
    assert place.losses(name) == undisturbed.losses("undisturbed")
    assert place.weights(name) == undisturbed.weights("undisturbed")


def test_a_job_trains_over_both_nodes_to_the_end(slurm: SlurmCluster, place: Place, small_store: Path) -> None:
    name = "two-by-two"
    job_id = submit(place, job_for(small_store, name, epochs=1, workers=4), "--cluster", "checked")
    following = submit(place, job_for(small_store, "following"), "--after", name)
    assert slurm.run("squeue", "-h", "-j", following, "-o", "%E").startswith(f"afterok:{job_id}")
    slurm.run("scancel", following)
    assert slurm.wait_for_end(job_id) == "COMPLETED", output(place, name)
    assert sorted(place.losses(name)) == list(range(1, 12 + 1))
    assert [event["world"] for event in place.events(name, "attempt")] == [4]
    assert (place.folder / "notices").read_text() == f"finished {name} container\n"
    tracked = place.tracked(name)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["launcher"] == "slurm" and tracked.data.tags["nodes"] == "node1,node2"
    assert tracked.data.tags["slurm.job_id"] == job_id
    launch = place.directory(name) / "launch"
    attempt = launch / "attempts" / f"{job_id}-0"
    assert {json.loads(path.read_text())["host"] for path in attempt.glob("ready-*.json")} == {"node1", "node2"}
    assert set(json.loads((attempt / "network.json").read_text())["nodes"]) == {"node1", "node2"}
    assert "network: all-reduce over 4 ranks" in output(place, name)
    assert "Draining" not in "".join(path.read_text() for path in attempt.glob("ray-*.log")), (
        "nobody takes its work over"
    )
    assert not (attempt / "token").exists(), "the secret does not outlive the attempt"
    assert [path.name for path in launch.glob("code-*")] == [
        json.loads((launch / "submission.json").read_text())["code"]
    ]
    assert_all_gone(processes_of(job_id), patience_s=10)


def test_a_time_limit_and_a_preemption_with_a_warning_repeat_no_step(
    slurm: SlurmCluster, place: Place, small_store: Path, undisturbed: Place
) -> None:
    """The only states are those that the warnings made: the next attempt begins with exactly the next step."""
    name = "warned"
    job_id = submit(place, job_for(small_store, name, every_steps=2 * STEPS))
    with attempt_at_rest(slurm, place, name, 1) as first:
        assert len(first) > 10
        used = slurm.run("squeue", "-h", "-o", "%M", "-j", job_id)
        # The limit is now two to three minutes away, the signal is due three minutes before it: at Slurm's next look.
        slurm.run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={int(used.split(':')[-2]) + 3}")
        wait_for_stop_request(slurm, place, name)
    slurm.wait_for("requeue", lambda: "Restarts=1" in slurm.run("scontrol", "show", "job", job_id), 150)
    slurm.run("scontrol", "update", f"JobId={job_id}", "TimeLimit=30")
    assert_all_gone(first)
    slurm.run("scontrol", "update", "PartitionName=gpu", "GraceTime=120")
    try:
        with attempt_at_rest(slurm, place, name, 2) as second:
            urgent = submit_urgent(slurm)
            wait_for_stop_request(slurm, place, name)
        assert slurm.wait_for_end(urgent, 180) == "COMPLETED"
    finally:
        slurm.run("scontrol", "update", "PartitionName=gpu", "GraceTime=0")
    assert_all_gone(second)
    assert slurm.wait_for_end(job_id) == "COMPLETED", output(place, name)
    stopped = [event["step"] for event in place.events(name, "end") if event["outcome"] == "stopped"]
    assert [event["step"] for event in place.events(name, "attempt")] == [0, *stopped]
    assert 0 < stopped[0] < stopped[1] < STEPS
    assert len(place.events(name)) == STEPS
    assert_same_training(place, name, undisturbed)
    tracked = place.tracked(name)
    assert tracked.info.status == "FINISHED" and tracked.data.tags["attempt"] == "3"
    assert len(place.history(name, "train/loss")) == STEPS


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("partition", "gpuu", "no partition 'gpuu'; known: gpu"),
        ("nodes", 8, "8 asked for, partition gpu gives 4"),
        ("gpus_per_node", 3, "3 asked for, the nodes of gpu have 2"),
    ],
)
def test_what_the_cluster_lacks_is_told_before_anything_is_queued(
    slurm: SlurmCluster, place: Place, small_store: Path, field: str, value: object, says: str
) -> None:
    cluster = yaml.safe_load((place.folder / "cluster.yaml").read_text())
    cluster["profiles"]["mini"]["slurm"][field] = value
    (place.folder / "lacking-cluster.yaml").write_text(yaml.safe_dump(cluster))
    spec = place.spec(small_job(small_store, "lacking", scale={"workers": 8}, batching={"partitions": 8}))
    done = place.run("submit", str(spec), "--cluster-file", "lacking-cluster.yaml")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert not place.directory("lacking").exists()


@pytest.fixture(scope="module")
def endless(slurm: SlurmCluster, place: Place, small_store: Path) -> str:
    """A run that trains on until it is cancelled."""
    job = job_for(small_store, "endless", epochs=1000)
    submit(place, job)
    wait_for_attempt(slurm, place, job.name, 1)
    return job.name


def test_a_node_whose_gpu_breaks_is_left_out_of_the_next_attempt(
    slurm: SlurmCluster, place: Place, endless: str
) -> None:
    """Nothing here has a GPU to break, so that the record is a test's; what reads it is the job's own."""
    job_id = job_of(place, endless)
    attempts = place.directory(endless) / "launch" / "attempts"
    with attempt_at_rest(slurm, place, endless, 1) as first:
        broken = other_host(attempts / f"{job_id}-0")
        failure = Failure(Kind.DEVICE, "GPU 4", None, 0.0, broken, {broken: "GPU 4: must be reset"})
        with EventWriter(RunDirectory(place.directory(endless)).failures) as record:
            record.write("failure", failure=failure.to_json(), retry=True, wait_s=1.0, left_out={})
        slurm.wait_for("the requeue", lambda: slurm.state(job_id) != "RUNNING", 120)
    wait_for_attempt(slurm, place, endless, 2)
    assert_all_gone(first)
    end = json.loads((attempts / f"{job_id}-0" / "end.json").read_text())
    assert (end["outcome"], end["cause"]) == ("lost", f"{broken}: GPU 4: must be reset"), output(place, endless)
    assert broken not in hosts(attempts / f"{job_id}-1")


@pytest.mark.skipif(os.geteuid() != 0, reason="all nodes share one machine's processes")
def test_what_goes_on_without_its_slurmd_makes_way_for_the_next_attempt(
    slurm: SlurmCluster, place: Place, endless: str
) -> None:
    number = len(place.events(endless, "attempt"))
    seen = wait_for_attempt(slurm, place, endless, number)
    attempt = newest_attempt(place, endless)
    head = json.loads((attempt / "head.json").read_text())["host"]
    try:
        with at_rest(training_ranks(seen)):
            slurm.kill_slurmd(head)
            slurm.wait_for("end of Slurm's patience", lambda: slurm.node_state(head).startswith("down"), 120)
        wait_for_attempt(slurm, place, endless, number + 1)
        assert_all_gone(seen)
        assert head not in hosts(newest_attempt(place, endless))
        second = place.events(endless, "attempt")[number]
        steps = [event["step"] for event in place.events(endless) if event["time"] > second["time"]]
        assert steps == list(range(second["step"] + 1, second["step"] + 1 + len(steps))), "two write at once"
    finally:
        slurm.kill_node(head)
        slurm.bring_up()


def test_cancel_and_scancel_leave_nothing_and_the_same_command_resumes(
    slurm: SlurmCluster, place: Place, small_store: Path, endless: str
) -> None:
    job_id = job_of(place, endless)
    attempts = len(place.events(endless, "attempt"))
    before = wait_for_attempt(slurm, place, endless, attempts)
    done = place.run("cancel", endless, "--wait", "180")
    assert done.returncode == 0 and "after a checkpoint" in done.stdout, done.stderr
    assert_all_gone(before)
    slurm.wait_for_end(job_id, 150)
    stopped = place.events(endless, "end")[-1]["step"]
    assert stopped == place.events(endless)[-1]["step"] == place.events(endless, "checkpoint")[-1]["step"]
    job_id = submit(place, job_for(small_store, endless, epochs=1000))
    before = wait_for_attempt(slurm, place, endless, attempts + 1)
    assert place.events(endless, "attempt")[-1]["step"] == stopped
    folders = session_folders(before)
    assert len(before) > 10 and len(folders) == 2
    slurm.run("scancel", job_id)
    assert slurm.wait_for_end(job_id, 150).startswith("CANCELLED")
    assert_all_gone(before)
    assert not processes_of(job_id)
    assert not [folder for folder in folders if folder.exists()]
    shown = json.loads(place.run("status", endless, "--json").stdout)[0]
    assert shown["state"] == "KILLED" and shown["job"] == job_id and shown["attempt"] == attempts + 1


def test_a_node_without_the_interface_ends_the_job_and_is_named(
    slurm: SlurmCluster, place: Place, small_store: Path
) -> None:
    name = "no-interface"
    cluster = (place.folder / "cluster.yaml").read_text().replace(slurm.interface, "bond7")
    (place.folder / "broken.yaml").write_text(cluster)
    job_id = submit(place, job_for(small_store, name), "--cluster-file", "broken.yaml")
    assert slurm.wait_for_end(job_id, 120) == "FAILED"
    end = json.loads((place.directory(name) / "launch" / "attempts" / f"{job_id}-0" / "end.json").read_text())
    assert "has no address on 'bond7'" in end["cause"]
    assert_all_gone(processes_of(job_id), patience_s=10)


def test_a_preempted_run_that_loses_two_nodes_ends_with_the_same_losses(
    slurm: SlurmCluster, place: Place, small_store: Path, undisturbed: Place
) -> None:
    name = "disturbed"
    job_id = submit(place, job_for(small_store, name, every_steps=3))
    attempts = place.directory(name) / "launch" / "attempts"
    with attempt_at_rest(slurm, place, name, 1) as first:
        urgent = submit_urgent(slurm)
        slurm.wait_for("preemption", lambda: slurm.state(job_id) != "RUNNING", 60)
    assert slurm.wait_for_end(urgent, 180) == "COMPLETED"
    assert_all_gone(first)
    with attempt_at_rest(slurm, place, name, 2) as second:
        lost = [other_host(attempts / f"{job_id}-1")]
        kill_raylet(attempts / f"{job_id}-1", second)
    try:
        with attempt_at_rest(slurm, place, name, 3) as third:
            lost.append(other_host(attempts / f"{job_id}-2"))
            slurm.kill_node(lost[1])
        assert slurm.wait_for_end(job_id) == "COMPLETED", output(place, name)
        assert_all_gone(second + third)
    finally:
        slurm.bring_up()
    assert lost[0] not in hosts(attempts / f"{job_id}-2") | hosts(attempts / f"{job_id}-3")
    assert lost[1] not in hosts(attempts / f"{job_id}-3")
    assert "does not answer any more" in json.loads((attempts / f"{job_id}-2" / "end.json").read_text())["cause"]
    assert_same_training(place, name, undisturbed)
    tracked = place.tracked(name)
    assert tracked.info.status == "FINISHED" and tracked.data.tags["attempt"] == "4"
    assert tracked.data.tags["wavetrain.excluded_nodes"] == ", ".join(sorted(lost))


def kill_raylet(attempt: Path, processes: list[psutil.Process]) -> None:
    """End Ray on the node that is not the head."""
    head = json.loads((attempt / "head.json").read_text())["address"].partition(":")[0]
    raylets = [process for process in processes_with("raylet", processes) if process.name() == "raylet"]
    other = [process for process in raylets if f"--node_ip_address={head}" not in process.cmdline()]
    assert len(raylets) == 2 and len(other) == 1
    other[0].kill()
