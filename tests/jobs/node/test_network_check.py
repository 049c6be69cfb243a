"""The ranks' check on this machine: real processes over loopback."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from jobs.node import network_check
from jobs.node.checks import RESULT, bad_nodes, check_machine
from jobs.node.doctor import Finding, examine
from jobs.node.network_check import Group, RankCheckError, run_ranks
from jobs.node.rendezvous import BadNodeError, JobNode, Rendezvous
from orchestrator.spec.cluster import Profile


def test_doctor_measures_between_two_ranks(tmp_path: Path) -> None:
    found = examine(Profile.model_validate({"storage": {"runs": str(tmp_path / "runs")}}), ranks=2)
    line = next(finding for finding in found if finding.check == "ranks")
    assert line.verdict == "ok" and "all-reduce over 2 ranks" in line.found, line
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_does_not_work_is_told_and_blamed(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    group = Group("127.0.0.1", free_port(), 1, 0, 1, "n1", "cuda")
    with pytest.raises(RankCheckError, match="cuda:0 does not work") as failed:
        run_ranks(group, tmp_path / "result.json", lambda local: tmp_path / f"{local}.log", os.environ)
    assert failed.value.bad_device and not (tmp_path / "result.json").exists()


def test_a_node_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "TIMEOUT_S", 1.0)
    group = Group("127.0.0.1", free_port(), 2, 0, 1, "n1", "cpu")
    with pytest.raises(RankCheckError, match="have not exchanged data") as failed:
        run_ranks(group, tmp_path / "result.json", lambda local: tmp_path / f"{local}.log", os.environ)
    assert not failed.value.bad_device


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measured(folder: Path, least: float | None) -> tuple[Rendezvous, Profile]:
    from channels.files import write_json

    rendezvous = Rendezvous(folder, JobNode(41, 0, 0, ("n1", "n2", "n3")))
    write_json(folder / RESULT, {"world": 6, "all_reduce_gb_s": 4.0, "nodes": {"n1": 9.0, "n2": 0.5, "n3": 10.0}})
    return rendezvous, Profile.model_validate({"network": {"least_gb_s": least}})


@pytest.mark.parametrize(("least", "bad"), [(None, []), (0.1, []), (5.0, ["n2"])])
def test_nodes_below_the_profiles_least_are_bad(
    tmp_path: Path, least: float | None, bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = bad_nodes(*measured(tmp_path, least))
    assert list(found) == bad
    assert "slowest node n2, 0.50 GB/s with the best of the others (far below the others)" in capsys.readouterr().out


def test_a_full_disk_is_the_nodes_own_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(profile: Any) -> list[Finding]:
        return [Finding("run folder", "failed", "0.1 GiB free"), Finding("clock", "ok", "0 s")]

    monkeypatch.setattr("jobs.node.checks.examine_storage", full)
    with pytest.raises(BadNodeError, match=r"run folder: 0\.1 GiB free"):
        check_machine(Profile())
