"""Runs on a real Slurm of two nodes: to the end, over a time limit, cancelled."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.config import JobSpec
from tests.e2e.runs import Place, assert_all_gone
from tests.e2e.slurm_cluster import SlurmCluster, folders_of, missing_programs, processes_of, slurm_cluster
from tests.jobs_for_tests import small_job

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.launching,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not installed: {', '.join(missing_programs())}"),
]
EPOCHS = 12
STEPS = 12 * EPOCHS


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture
def place(slurm: SlurmCluster, shared_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return shared_place


@pytest.fixture(scope="module")
def shared_place(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("slurm")
    section = {"partition": "gpu", "nodes": 2, "gpus_per_node": 0, "time": "0:30:00", "signal_lead_s": 60}
    profile = {"launcher": "slurm", "network": {"interface": slurm.interface}, "slurm": section}
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"default": "mini", "profiles": {"mini": profile}}))
    return Place(folder)


def job_for(store: Path, name: str, every_steps: int = 50) -> JobSpec:
    return small_job(
        store, name, train={"epochs": EPOCHS, "lr": 1e-3, "warmup_epochs": 0.5},
        checkpoint={"every_steps": every_steps}, scale={"workers": 4},
    )  # fmt: skip


def submit(place: Place, job: JobSpec) -> str:
    done = place.run("submit", str(place.spec(job)))
    assert done.returncode == 0, done.stderr
    return str(json.loads((place.directory(job.name) / "launch" / "submission.json").read_text())["job_id"])


def wait_for_step(slurm: SlurmCluster, place: Place, name: str, step: int) -> None:
    slurm.wait_for(f"step {step}", lambda: any(event["step"] >= step for event in place.events(name)), 300)


def said(place: Place, name: str) -> str:
    """Everything the nodes printed, for a failing test."""
    return "\n".join(path.read_text() for path in sorted((place.directory(name) / "launch" / "slurm").glob("*_log.*")))


@pytest.fixture
def undisturbed(slurm: SlurmCluster, place: Place, small_store: Path) -> str:
    """A run that nobody touched, made once."""
    if not place.directory("undisturbed").exists():
        job_id = submit(place, job_for(small_store, "undisturbed"))
        assert slurm.wait_for_end(job_id) == "COMPLETED", said(place, "undisturbed")
    return "undisturbed"


def test_a_job_trains_over_both_nodes_to_the_end(slurm: SlurmCluster, place: Place, undisturbed: str) -> None:
    assert sorted(place.losses(undisturbed)) == list(range(1, STEPS + 1))
    assert [event["world"] for event in place.events(undisturbed, "attempt")] == [4]
    tracked = place.tracked(undisturbed)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["launcher"] == "slurm" and tracked.data.tags["nodes"] == "node[1-2]"
    launch = place.directory(undisturbed) / "launch"
    job_id = tracked.data.tags["slurm.slurm_job_id"]
    attempt = launch / "attempts" / f"{job_id}-0"
    assert {json.loads(path.read_text())["host"] for path in attempt.glob("ready-*.json")} == {"node1", "node2"}
    assert not (attempt / "token").exists(), "the secret does not outlive the attempt"
    assert [path.name for path in launch.glob("code-*")] == [
        json.loads((launch / "submission.json").read_text())["code"]
    ]
    assert not processes_of(job_id)


def test_the_time_limit_requeues_and_the_next_attempt_resumes_exactly(
    slurm: SlurmCluster, place: Place, small_store: Path, undisturbed: str
) -> None:
    name = "limited"
    job_id = submit(place, job_for(small_store, name, every_steps=1))
    wait_for_step(slurm, place, name, 3)
    before = processes_of(job_id)
    assert len(before) > 10
    used = slurm.run("squeue", "-h", "-o", "%M", "-j", job_id)
    minutes = int(used.split(":")[-2])
    # The limit is now at most two minutes away, and the signal is due a minute before it.
    slurm.run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes + 2}")
    restarts = lambda: f"Restarts={1}" in slurm.run("scontrol", "show", "job", job_id)  # noqa: E731
    slurm.wait_for("requeue", restarts, 240)
    slurm.run("scontrol", "update", f"JobId={job_id}", "TimeLimit=30")
    assert_all_gone(before)
    stopped = [event for event in place.events(name, "end") if event["outcome"] == "stopped"]
    assert len(stopped) == 1 and 3 <= stopped[0]["step"] < STEPS
    assert slurm.wait_for_end(job_id) == "COMPLETED", said(place, name)
    attempts = place.events(name, "attempt")
    assert [event["step"] for event in attempts] == [0, stopped[0]["step"]]
    assert place.losses(name) == place.losses(undisturbed)
    assert place.weights(name) == place.weights(undisturbed)
    tracked = place.tracked(name)
    assert tracked.info.status == "FINISHED" and tracked.data.tags["attempt"] == "2"
    assert len(place.history(name, "train/loss")) == STEPS


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("partition", "gpuu", "no partition 'gpuu'; known: gpu"),
        ("nodes", 4, "4 asked for, partition gpu gives 3"),
        ("gpus_per_node", 3, "3 asked for, the nodes of gpu have 2"),
    ],
)
def test_what_the_cluster_lacks_is_told_before_anything_is_queued(
    slurm: SlurmCluster, place: Place, small_store: Path, field: str, value: object, says: str
) -> None:
    cluster = yaml.safe_load((place.folder / "cluster.yaml").read_text())
    cluster["profiles"]["mini"]["slurm"][field] = value
    (place.folder / "lacking-cluster.yaml").write_text(yaml.safe_dump(cluster))
    spec = place.spec(job_for(small_store, "lacking"))
    done = place.run("submit", str(spec), "--cluster-file", "lacking-cluster.yaml")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert not place.directory("lacking").exists()


def test_scancel_leaves_nothing(slurm: SlurmCluster, place: Place, small_store: Path) -> None:
    name = "cancelled"
    job_id = submit(place, job_for(small_store, name, every_steps=1))
    wait_for_step(slurm, place, name, 3)
    before = processes_of(job_id)
    folders = folders_of(before)
    assert len(before) > 10 and len(folders) == 2
    slurm.run("scancel", job_id)
    assert slurm.wait_for_end(job_id, 60).startswith("CANCELLED")
    assert_all_gone(before)
    assert not processes_of(job_id)
    assert not [folder for folder in folders if folder.exists()]
    shown = json.loads(place.run("status", name, "--json").stdout)[0]
    assert shown["state"] == "KILLED" and shown["job"] == job_id


def test_a_node_without_the_interface_ends_the_job_and_is_named(
    slurm: SlurmCluster, place: Place, small_store: Path
) -> None:
    name = "no-interface"
    cluster = (place.folder / "cluster.yaml").read_text().replace(slurm.interface, "bond7")
    (place.folder / "broken.yaml").write_text(cluster)
    done = place.run("submit", str(place.spec(job_for(small_store, name))), "--cluster-file", "broken.yaml")
    assert done.returncode == 0, done.stderr
    job_id = json.loads((place.directory(name) / "launch" / "submission.json").read_text())["job_id"]
    assert slurm.wait_for_end(job_id, 120) == "FAILED"
    end = json.loads((place.directory(name) / "launch" / "attempts" / f"{job_id}-0" / "end.json").read_text())
    assert "has no address on 'bond7'" in end["cause"]
    assert not processes_of(job_id)


def test_a_lost_node_is_left_out_of_the_next_attempt(slurm: SlurmCluster, place: Place, small_store: Path) -> None:
    name = "lost"
    job_id = submit(place, job_for(small_store, name, every_steps=1))
    wait_for_step(slurm, place, name, 3)
    before = processes_of(job_id)
    attempt = place.directory(name) / "launch" / "attempts" / f"{job_id}-0"
    head = json.loads((attempt / "head.json").read_text())["address"].partition(":")[0]
    raylets = [process for process in before if process.name() == "raylet"]
    other = [process for process in raylets if f"--node_ip_address={head}" not in process.cmdline()]
    assert len(raylets) == 2 and len(other) == 1
    other[0].kill()
    assert slurm.wait_for_end(job_id) == "COMPLETED", said(place, name)
    assert_all_gone(before)
    lost = json.loads((attempt / "failed-1.json").read_text())["host"]
    again = place.directory(name) / "launch" / "attempts" / f"{job_id}-1"
    used = {json.loads(path.read_text())["host"] for path in again.glob("ready-*.json")}
    assert lost == "node2" and used == {"node1", "node3"}
    assert sorted(place.losses(name)) == list(range(1, STEPS + 1))
    assert place.tracked(name).info.status == "FINISHED"


def test_a_sweep_is_an_array_of_children_under_one_parent(slurm: SlurmCluster, place: Place, small_store: Path) -> None:
    job = small_job(small_store, "swept", train={"epochs": 1, "lr": 1e-3}, scale={"workers": 2})
    arguments = ("submit", str(place.spec(job)), "--sweep", "batching.buckets=1,2", "--parallel", "1")
    done = place.run(*arguments)
    assert done.returncode == 0, done.stderr
    names = ["swept.buckets-1", "swept.buckets-2"]
    records = [json.loads((place.directory(name) / "launch" / "submission.json").read_text()) for name in names]
    array = records[0]["job_id"].partition("_")[0]
    assert [record["job_id"] for record in records] == [f"{array}_0", f"{array}_1"]
    assert "0 to submit" in place.run(*arguments).stdout, "what is on its way is not submitted again"
    for record, name in zip(records, names, strict=True):
        slurm.wait_for(f"end of {name}", lambda name=name: ended(place, name), 400)
        assert place.state(name)["status"] == "FINISHED", Path(record["logs"])
    parent = place.state("swept.sweep")["mlflow_run_id"]
    assert {place.tracked(name).data.tags["mlflow.parentRunId"] for name in names} == {parent}
    assert "zero-shot results" in place.run("logs", names[1]).stdout
    assert "0 to submit" in place.run(*arguments).stdout, "what is finished is not submitted again"


def ended(place: Place, name: str) -> bool:
    return json.loads(place.run("status", name, "--json").stdout)[0]["state"] in ("FINISHED", "FAILED", "KILLED")
