"""A broken device in a Slurm job: its node is named, left out of the next attempt, and only so often."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.launch.folder import LaunchFolder
from jobs.node.rendezvous import BadDeviceError, BadNodeError, JobNode, Rendezvous
from jobs.slurm import head as heads
from jobs.slurm.device_failures import DeviceFailures, find_host
from jobs.slurm.head import Head
from jobs.slurm.signals import SlurmSignals
from orchestrator.control.failure_policy import Failure, Kind
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from tests.jobs.launches import job_of, slurm_profile

HOSTS = ("n1", "n2", "n3")


def record(folder: Path, **bad_nodes: str) -> None:
    failure = Failure(Kind.DEVICE, "why", None, 1.0, None, bad_nodes)
    with EventWriter(folder / "failures.jsonl") as book:
        book.write("failure", failure=failure.to_json(), retry=True, wait_s=1.0)


def test_only_what_is_written_from_now_on_is_new(tmp_path: Path) -> None:
    record(tmp_path, n1="an earlier attempt")
    failures = DeviceFailures(tmp_path / "failures.jsonl")
    assert failures.new() == {}
    record(tmp_path, n2="GPU 4: must be reset")
    assert failures.new() == {"n2": "GPU 4: must be reset"} and failures.new() == {}


@pytest.mark.parametrize(
    ("name", "hosts", "number"),
    [("n2", HOSTS, 1), ("n2.cluster", HOSTS, 1), ("n2", ("n1.a", "n2.a"), 1), ("n9", HOSTS, None),
     ("n1.a", ("n1.b", "n2.b"), None), ("n1.a", ("n1.a", "n1.b"), 0), ("n1", ("n1.a", "n1.b"), None)],
)  # fmt: skip
def test_a_node_is_found_by_its_name(name: str, hosts: tuple[str, ...], number: int | None) -> None:
    assert find_host(name, hosts) == number


def head_of(run: Path, restart: int = 0) -> Head:
    """The head of an attempt, without Ray and without sockets."""
    launch = LaunchFolder(RunDirectory(run))
    if not (launch.path / "spec.json").exists():
        launch.write(job_of(), slurm_profile(run.parent))
    head = object.__new__(Head)
    head.launch = launch
    head.rendezvous = Rendezvous(launch.path / "attempts" / f"41-{restart}", JobNode(41, restart, 0, HOSTS))
    head.rendezvous.folder.mkdir(parents=True)
    head.node = cast("Any", SimpleNamespace(check=lambda: None))
    head.keepalive = cast("Any", SimpleNamespace(lost=lambda: []))
    head.devices = DeviceFailures(launch.run.failures)
    head.lost = []
    return head


def test_the_attempt_ends_and_its_node_is_bad(tmp_path: Path) -> None:
    head = head_of(tmp_path / "run")
    assert head._lost() == []
    record(tmp_path / "run", **{"n2.cluster": "GPU 4: must be reset", "n77": "not ours"})
    head.lost = head._lost()
    assert head.lost == ["n2: GPU 4: must be reset"]
    assert head._outcome(-15) == ("lost", "n2: GPU 4: must be reset")
    assert head.rendezvous.bad_hosts_so_far() == {"n2"}


@pytest.mark.parametrize("code", [-6, -9, -11])
def test_a_controller_that_crashes_while_slurm_ends_the_job_was_ended_by_slurm(tmp_path: Path, code: int) -> None:
    head = head_of(tmp_path / "run")
    head.signals = SlurmSignals(requeue=True)
    assert head._outcome(code) == ("stopped", "stopped before the time limit")
    head.signals = SlurmSignals()
    assert head._outcome(code) == ("failed", f"the controller ended with status {code}")


@pytest.mark.parametrize(("again", "causes", "bad"), [
    (False, ["n2: the node does not answer any more"], {"n2"}),
    (True, ["Slurm has put the job back into the queue"], set()),
])  # fmt: skip
def test_a_node_that_slurm_has_silenced_is_not_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool, causes: list[str], bad: set[str]
) -> None:
    """Slurm gives the first node up, which still runs, and ends the others."""
    monkeypatch.setattr(heads, "is_in_queue_again", lambda job, restart: again and (job, restart) == ("41", 0))
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    head = head_of(tmp_path / "run")
    head.keepalive = cast("Any", SimpleNamespace(lost=lambda: [1]))
    assert head._lost() == causes
    assert head.rendezvous.bad_hosts_so_far() == bad


def test_a_job_whose_devices_break_too_often_is_not_requeued(tmp_path: Path) -> None:
    budget = job_of().failures.device
    for restart in range(budget + 1):
        head = head_of(tmp_path / "run", restart)
        record(tmp_path / "run", n2="GPU 4: must be reset")
        head.lost = head._lost()
        outcome, cause = head._outcome(-15)
        assert outcome == ("lost" if restart < budget else "failed")
    assert f"a device broke in {budget + 1} attempts, failures.device is {budget}" in str(cause)


def test_other_bad_nodes_do_not_count_as_broken_devices(tmp_path: Path) -> None:
    rendezvous = head_of(tmp_path / "run").rendezvous
    rendezvous.fail(BadNodeError("the node does not answer any more"), 1)
    assert rendezvous.attempts_with_bad_devices() == 0
    rendezvous.fail(BadDeviceError("GPU 4"), 2)
    assert rendezvous.attempts_with_bad_devices() == 1
