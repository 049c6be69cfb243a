"""What a node of a Slurm job does: rendezvous, ports, signals, requeue. No Slurm, no Ray."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.launch.folder import LaunchFolder
from jobs.node.checks import check_share
from jobs.node.port_window import WIDTH, claim, interface_address
from jobs.node.ray_node import RayNode, Share
from jobs.node.rendezvous import BadNodeError, BootstrapError, JobNode, Rendezvous
from jobs.slurm import leave as leaving
from jobs.slurm.bring_up import failed_start, wait_for_all
from jobs.slurm.head import grace_s
from jobs.slurm.leave import leave, notify_attempt
from jobs.slurm.node import NodeTask, run_node
from jobs.slurm.signals import CANCELLED, SlurmSignals
from orchestrator.monitoring import whole_gpus
from orchestrator.monitoring.whole_gpus import Gpus
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.notify import NotifySection
from tests.jobs.launches import job_of, slurm_profile

HOSTS = ("n1", "n2", "n3")


def rendezvous_of(folder: Path, node: int = 0, restart: int = 0) -> Rendezvous:
    return Rendezvous(folder / "attempt", JobNode(41, restart, node, HOSTS))


@pytest.fixture
def launch(tmp_path: Path) -> LaunchFolder:
    folder = LaunchFolder(RunDirectory(tmp_path / "run"))
    folder.write(job_of(), slurm_profile(tmp_path, max_requeues=2))
    return folder


def test_the_pickle_holds_a_path_only(tmp_path: Path) -> None:
    task = NodeTask(tmp_path)
    assert vars(pickle.loads(pickle.dumps(task))) == {"run": str(tmp_path)}
    assert vars(task.checkpoint().function) == {"run": str(tmp_path)}, "submitit's own requeue starts the same"


@pytest.mark.parametrize(("name", "content"), [("profile.json", None), ("profile.json", "{"), ("spec.json", "[]")])
def test_what_a_node_cannot_read_is_one_line(launch: LaunchFolder, name: str, content: str | None) -> None:
    (launch.path / name).unlink()
    if content is not None:
        (launch.path / name).write_text(content)
    code, text = run_node(launch, JobNode(41, 0, 1, HOSTS))
    assert code == 1 and text.startswith(f"n2: {launch.path / name}: ") and "\n" not in text
    assert not (launch.path / "attempts").exists()


def test_a_time_out_names_the_missing_nodes(tmp_path: Path) -> None:
    rendezvous = rendezvous_of(tmp_path)
    rendezvous.mark("ready")
    with pytest.raises(BootstrapError, match="nodes n2, n3 have not joined within 0 s"):
        rendezvous.wait(lambda: False, [], lambda: f"nodes {', '.join(rendezvous.missing('ready'))} have not joined", 0)


@pytest.mark.parametrize(("state", "says"), [("joined", "have not joined Ray"), ("ready", "are not ready")])
def test_nodes_that_are_missing_are_named_before_their_ranks_are_waited_for(
    tmp_path: Path, state: str, says: str
) -> None:
    node = cast("RayNode", SimpleNamespace(check=lambda: None, timeout_s=0.0))
    rendezvous = rendezvous_of(tmp_path)
    rendezvous.mark(state)
    with pytest.raises(BootstrapError, match=f"nodes n2, n3 .*{says}"):
        wait_for_all(rendezvous, state, node, SlurmSignals())
    wait_for_all(rendezvous, state, node, SlurmSignals(requeue=True))
    for other in (1, 2):
        rendezvous_of(tmp_path, other).mark(state)
    wait_for_all(rendezvous, state, node, SlurmSignals())


def test_a_failure_elsewhere_ends_the_wait_at_once(tmp_path: Path) -> None:
    rendezvous_of(tmp_path, node=2).mark("failed", cause="no GPU")
    with pytest.raises(BootstrapError, match="n3: no GPU"):
        rendezvous_of(tmp_path).wait(lambda: False, [], lambda: "late", 60)


def test_nodes_with_other_versions_are_named(tmp_path: Path) -> None:
    for node, version in enumerate(("2.60.0", "2.60.0", "2.59.1")):
        rendezvous_of(tmp_path, node).mark("ready", versions={"python": "3.11.7", "ray": version})
    assert rendezvous_of(tmp_path).other_versions() == ["n3: ray 2.59.1, not 2.60.0"]


def test_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    rendezvous = rendezvous_of(tmp_path)
    rendezvous.announce_token("secret")
    assert rendezvous.token.stat().st_mode & 0o777 == 0o600


def test_two_nodes_and_two_jobs_get_different_windows() -> None:
    held = [claim("127.0.0.1", 41, 0), claim("127.0.0.1", 41, 0), claim("127.0.0.1", 41, 1), claim("127.0.0.1", 101, 0)]
    starts = sorted(window.first for window in held)
    assert all(after - before >= WIDTH for before, after in itertools.pairwise(starts))
    named = [int(option.partition("=")[2]) for option in held[0].options + held[0].head_options]
    assert len(set(named)) == len(named)
    assert all(held[0].first < port < held[0].first + WIDTH for port in named)
    for window in held:
        window.release()


def test_a_window_with_a_port_in_use_is_passed_over() -> None:
    import socket

    first = claim("127.0.0.1", 41, 0)
    first.release()
    with socket.socket() as other:
        other.bind(("127.0.0.1", first.first + 50))
        other.listen(1)
        second = claim("127.0.0.1", 41, 0)
    second.release()
    assert second.first != first.first


def test_an_unknown_interface_is_told_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="has no address on 'bond77'; there are"):
        interface_address("bond77")


def test_signals_before_the_limit_ask_for_a_requeue_and_term_does_not() -> None:
    with SlurmSignals().installed() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (signals.requeue, signals.terminate) == (True, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.terminate


@pytest.mark.parametrize(("terminate", "lead", "grace"), [(False, 600, 585), (False, 20, 15), (True, 600, 15)])
def test_a_checkpoint_may_take_as_long_as_the_signal_comes_early(terminate: bool, lead: int, grace: float) -> None:
    assert grace_s(SlurmSignals(requeue=True, terminate=terminate), lead) == grace


class Scontrol:
    """Stands for subprocess.run."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.restarts = 0

    def __call__(self, command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        asked = command[command.index("scontrol") :]
        if asked[1] == "show":
            return subprocess.CompletedProcess(command, 0, f"   Requeue=1 Restarts={self.restarts} BatchFlag=1\n", "")
        self.commands.append(asked)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def scontrol(monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    fake = Scontrol()
    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(leaving.time, "monotonic", itertools.count(0.0, 3600.0).__next__)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return fake


def ended(tmp_path: Path, outcome: str, restart: int = 0) -> Rendezvous:
    rendezvous = rendezvous_of(tmp_path, restart=restart)
    rendezvous.announce_end(outcome, 1, cause="why")
    return rendezvous


def test_a_stop_before_the_limit_is_requeued(launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol) -> None:
    code, text = leave(launch, ended(tmp_path, "stopped"), SlurmSignals(requeue=True))
    assert scontrol.commands == [["scontrol", "requeue", "41"]]
    assert code != 0 and text == "why; requeued", "submitit must not see a result"


def test_a_task_of_an_array_is_requeued_alone(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    leave(launch, ended(tmp_path, "stopped"), SlurmSignals(requeue=True))
    assert scontrol.commands == [["scontrol", "requeue", "40_3"]]


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_failures_and_cancelled_runs_are_not_requeued(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol, outcome: str
) -> None:
    assert leave(launch, ended(tmp_path, outcome), SlurmSignals(requeue=True)) == (1, "why")
    assert not scontrol.commands


def test_a_lost_node_is_excluded_from_the_next_attempts(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol
) -> None:
    for restart, node in ((0, 2), (1, 1)):
        earlier = Rendezvous(tmp_path / f"41-{restart}", JobNode(41, restart, node, HOSTS))
        earlier.fail(BadNodeError("Ray ended"))
    rendezvous = Rendezvous(tmp_path / "41-1", JobNode(41, 1, 0, HOSTS))
    rendezvous.announce_end("lost", 1, cause="n2: Ray ended")
    code, text = leave(launch, rendezvous, SlurmSignals(terminate=True))
    assert code == 1 and text == "n2: Ray ended; requeued without n2, n3"
    assert [command[1] for command in scontrol.commands] == ["requeuehold", "update", "release"]
    assert scontrol.commands[1][2:] == ["JobId=41", "ExcNodeList=n2,n3"]


def test_a_node_that_is_not_to_blame_is_not_excluded(launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol) -> None:
    rendezvous = ended(tmp_path, "lost")
    rendezvous_of(tmp_path, node=1).fail(BootstrapError("node 0 does not answer any more"))
    leave(launch, rendezvous, SlurmSignals())
    assert [command[1] for command in scontrol.commands] == ["requeue"]


@pytest.mark.parametrize(("bad", "outcome"), [((1,), "lost"), ((0, 1, 2), "failed"), ((), "failed")])
def test_a_start_that_a_few_nodes_spoil_is_tried_again_without_them(
    tmp_path: Path, bad: tuple[int, ...], outcome: str
) -> None:
    for node in range(3):
        rendezvous_of(tmp_path, node).fail((BadNodeError if node in bad else BootstrapError)("no room"))
    ending = failed_start(rendezvous_of(tmp_path), file_s=10)
    assert ending == (outcome, 1, "n1: no room; n2: no room; n3: no room")


def test_an_attempt_that_slurm_has_replaced_does_not_requeue(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol
) -> None:
    rendezvous = Rendezvous(tmp_path / "attempts" / "41-0", JobNode(41, 0, 0, HOSTS))
    rendezvous.announce_end("lost", 1, cause="why")
    assert not rendezvous.is_superseded()
    (tmp_path / "attempts" / "41-1").mkdir()
    assert rendezvous.is_superseded()
    assert leave(launch, rendezvous, SlurmSignals()) == (1, "why")
    assert not scontrol.commands


@pytest.mark.parametrize(
    ("restarts", "commands", "says"),
    [(0, [["scontrol", "requeue", "41"]], "why; requeued"), (1, [], "why; requeued by Slurm")],
)
def test_an_attempt_that_slurm_itself_has_requeued_does_not_end_the_next_one(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol, restarts: int, commands: list[list[str]], says: str
) -> None:
    """Where a node is given up, its attempt ends beside the next one, which has not begun or has no folder yet."""
    scontrol.restarts = restarts
    assert leave(launch, ended(tmp_path, "lost"), SlurmSignals()) == (1, says)
    assert scontrol.commands == commands


def test_a_requeued_job_is_in_the_queue_from_the_end_of_its_last_attempt(
    launch: LaunchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    submission = {"launcher": "slurm", "job_id": "41", "submitted": 5.0}
    write_json(launch.submission, submission)
    first = Rendezvous(launch.path / "attempts" / "41-0", JobNode(41, 0, 0, HOSTS[:1]))
    assert "no scontrol here" in run_node(launch, first.node)[1] and launch.read_submission() == submission
    run_node(launch, replace(first.node, restart=1))
    assert launch.read_submission() == {**submission, "requeued": first.read(first.end)["time"]}
    run_node(launch, replace(first.node, restart=3))
    assert launch.read_submission()["requeued"] == first.read(first.end)["time"], "attempt 2 wrote nothing"


def test_scancel_during_the_stop_wins(launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol) -> None:
    assert leave(launch, ended(tmp_path, "stopped"), SlurmSignals(requeue=True, terminate=True)) == (1, "why")
    assert not scontrol.commands


def test_requeues_are_counted(launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol) -> None:
    code, text = leave(launch, ended(tmp_path, "stopped", restart=2), SlurmSignals(requeue=True))
    assert (code, scontrol.commands) == (1, []) and "max_requeues 2 is reached" in text


def test_a_run_that_finished_despite_the_signal_is_finished(
    launch: LaunchFolder, tmp_path: Path, scontrol: Scontrol
) -> None:
    assert leave(launch, ended(tmp_path, "finished"), SlurmSignals(requeue=True)) == (0, "finished")
    assert not scontrol.commands


def test_orphans_and_stubborn_children_are_ended_and_signals_do_not_reach_them() -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys, time
        from pathlib import Path
        import psutil
        from jobs.node import own_processes
        own_processes.adopt_orphans()
        stubborn = "trap '' TERM; sleep 100 & sleep 100"
        try:
            own_processes.start(["/bin/sh", "-c", f'sh -c "{stubborn}" & sleep 100'], dict(os.environ), None)
            deadline = time.monotonic() + 30
            while len(found := psutil.Process().children(recursive=True)) < 4:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
            for process in found:
                process.send_signal(signal.SIGUSR2)
            time.sleep(0.2)
            assert all(process.is_running() and process.status() != "zombie" for process in found), found
        finally:
            gone = own_processes.end_descendants(grace_s=0.5)
        assert gone and not psutil.Process().children(recursive=True)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("found", "needed", "says"),
    [(Gpus(8, 0), 8, None), (Gpus(0, 1), 1, None), (Gpus(7, 0), 8, "7 GPUs are usable"),
     (Gpus(1, 7), 8, "1 GPUs and 7 MIG slices are usable")],
)  # fmt: skip
def test_slices_are_no_gpus_of_a_share(
    monkeypatch: pytest.MonkeyPatch, found: Gpus, needed: int, says: str | None
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(whole_gpus, "count_devices", lambda: found)
    if says is None:
        check_share(Share(8, needed))
    else:
        with pytest.raises(BadNodeError, match=says):
            check_share(Share(8, needed))


def test_fewer_gpus_granted_than_needed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    with pytest.raises(BootstrapError, match="Slurm granted 1 GPUs, the workers of this node need 2"):
        check_share(Share(8, 2))


@pytest.mark.parametrize(
    ("outcome", "signals", "text", "sent"),
    [("finished", SlurmSignals(), "finished", "finished|"),
     ("failed", SlurmSignals(), "n1: no room", "failed|n1: no room"),
     ("lost", SlurmSignals(), "n2: Ray ended; requeued without n2", "preempted|n2: Ray ended; requeued without n2"),
     ("lost", SlurmSignals(), "why; requeued by Slurm", "preempted|why; requeued by Slurm"),
     ("lost", SlurmSignals(), "why; not requeued, slurm.max_requeues 2 is reached",
      "failed|why; not requeued, slurm.max_requeues 2 is reached"),
     ("stopped", SlurmSignals(requeue=True, terminate=True), "why", "preempted|why"),
     ("cancelled", SlurmSignals(terminate=True), "cancelled or preempted", "preempted|cancelled or preempted"),
     ("cancelled", SlurmSignals(terminate=True), CANCELLED, None)],
)  # fmt: skip
def test_the_first_node_sends_the_notice_of_an_attempt(
    tmp_path: Path, outcome: str, signals: SlurmSignals, text: str, sent: str | None
) -> None:
    launch, rendezvous = LaunchFolder(RunDirectory(tmp_path / "run")), rendezvous_of(tmp_path)
    rendezvous.announce_end(outcome, 1, cause=text)
    command = f'printf "%s|%s" "$WAVETRAIN_EVENT" "$WAVETRAIN_CAUSE" > {tmp_path}/said'
    notified = slurm_profile(tmp_path).model_copy(update={"notify": NotifySection(command=command)})
    launch.write(job_of(), notified)
    notify_attempt(launch, rendezvous, signals, text)
    said = tmp_path / "said"
    assert (said.read_text() if said.exists() else None) == sent


def test_a_notice_has_the_cause_that_the_controller_wrote_in_this_attempt(tmp_path: Path) -> None:
    launch, rendezvous = LaunchFolder(RunDirectory(tmp_path / "run")), ended(tmp_path, "failed")
    command = f'echo "$WAVETRAIN_CAUSE" >> {tmp_path}/said; rm {tmp_path}/.notify.json'
    launch.write(job_of(), slurm_profile(tmp_path).model_copy(update={"notify": NotifySection(command=command)}))
    launch.run.update_state(status="FAILED", cause="a loss is NaN")
    notify_attempt(launch, rendezvous, SlurmSignals(), "the nodes have not joined")
    rendezvous.announce_head("n1:1", ("n1", 2))
    launch.run.update_state(status="FAILED", cause="a loss is NaN")
    notify_attempt(launch, rendezvous, SlurmSignals(), "the controller ended with status 1")
    assert (tmp_path / "said").read_text() == "the nodes have not joined\na loss is NaN\n"
