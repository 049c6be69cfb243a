"""The ranks' check on this machine: real processes over loopback."""

import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.node import rank_check
from jobs.node.checks import RESULT, bad_nodes, check_machine, wanted_scan
from jobs.node.doctor import examine
from jobs.node.finding import Finding
from jobs.node.network_check import Group, RankCheckError, run_ranks
from jobs.node.rank_result import Bandwidth, Rail
from jobs.node.rendezvous import BadNodeError, JobNode, Rendezvous
from orchestrator.monitoring.gpu_state import GpuState
from orchestrator.monitoring.topology import Place
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import ModelSection
from tests.ports import held_port


def test_doctor_measures_between_two_ranks(tmp_path: Path) -> None:
    found = examine(Profile.model_validate({"storage": {"runs": str(tmp_path / "runs")}}), ranks=2)
    line = next(finding for finding in found if finding.check == "ranks")
    assert line.verdict == "ok" and "all-reduce over 2 ranks" in line.found, line
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_does_not_work_is_told_and_blamed(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    failure = failure_of(tmp_path, 1, "cuda", 60.0)
    assert "cuda:0 does not work" in str(failure) and failure.bad_device
    assert not (tmp_path / "result.json").exists()


def test_a_node_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    failure = failure_of(tmp_path, 2, "cpu", 1.0)
    assert "have not exchanged data" in str(failure) and not failure.bad_device


def failure_of(folder: Path, world: int, device: str, limit_s: float, scan: str = "") -> RankCheckError:
    """How the check of this node's one rank fails."""
    with held_port() as port, pytest.raises(RankCheckError) as failed:
        group = Group("127.0.0.1", port, world, 0, 1, "n1", device, limit_s, scan)
        run_ranks(group, folder / "result.json", lambda local: folder / f"{local}.log", os.environ)
    return failed.value


def measured(folder: Path, **network: float | None) -> tuple[Rendezvous, Profile]:
    from channels.files import write_json

    rendezvous = Rendezvous(folder, JobNode(41, 0, 0, ("n1", "n2", "n3")))
    rates = (9.0, 8.0, 0.5, 0.4, 10.0, 1.0)
    rails = tuple(
        Rail(f"n{1 + rank // 2}", rank, rank % 2, f"mlx5_{rank % 2}", rate) for rank, rate in enumerate(rates)
    )
    found = Bandwidth(6, 4.0, {"n1": 9.0, "n2": 0.5, "n3": 10.0}, rails)
    write_json(folder / RESULT, asdict(found))
    return rendezvous, Profile.model_validate({"network": network})


@pytest.mark.parametrize(("least", "bad"), [(None, []), (0.1, []), (5.0, ["n2"])])
def test_nodes_below_the_profiles_least_are_bad(
    tmp_path: Path, least: float | None, bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = bad_nodes(*measured(tmp_path, least_gb_s=least))
    assert list(found) == bad
    out = capsys.readouterr().out
    assert "slowest node n2, 0.50 GB/s with the best of the others; slowest of 6 rails n2 rank 3 (local 1, NIC" in out
    assert "network: n3 rank 5 (local 1, NIC mlx5_1) exchanges 1.00 GB/s, far below the others" in out


def test_a_slow_rail_of_a_fast_node_is_named_by_rank_and_card_and_leaves_the_node_out(tmp_path: Path) -> None:
    found = bad_nodes(*measured(tmp_path, least_rail_gb_s=1.5))
    assert list(found) == ["n2", "n3"]
    assert found["n3"] == "n3 rank 5 (local 1, NIC mlx5_1) exchanges 1.00 GB/s, network.least_rail_gb_s is 1.5"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ({"name": "hetercsi"}, ""), ({"name": "wimamba"}, ""), ({"name": "wimamba", "scan": "auto"}, ""),
        ({"name": "wimamba", "scan": "torch"}, ""), ({"name": "wimamba", "scan": "mamba_ssm"}, "mamba_ssm"),
    ],
)  # fmt: skip
def test_only_a_job_that_asks_for_a_compiled_scan_has_it_tried(model: dict[str, Any], wanted: str) -> None:
    assert wanted_scan(ModelSection.model_validate(model)) == wanted


def test_a_scan_that_a_job_asks_for_and_that_does_not_load_is_the_nodes_fault(tmp_path: Path) -> None:
    failure = failure_of(tmp_path, 1, "cpu", 60.0, "mamba_ssm")
    assert "'mamba_ssm' cannot run" in str(failure) and failure.bad_device


@pytest.mark.parametrize(
    ("binding", "used", "named"), [("nearest", "=mlx5_1:1", "mlx5_1:1"), ("none", None, "mlx5_0 mlx5_1")]
)
def test_the_check_uses_the_network_card_that_training_will_use(
    monkeypatch: pytest.MonkeyPatch, binding: str, used: str | None, named: str
) -> None:
    monkeypatch.setenv("NCCL_IB_HCA", "")
    monkeypatch.delenv("NCCL_IB_HCA")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="b"))
    monkeypatch.setattr(rank_check, "read_gpus", lambda visible: [GpuState(0, "H800", "GPU-b", "0000:9b:00.0")])
    monkeypatch.setattr(rank_check, "own_card", lambda pci: "mlx5_1:1")
    monkeypatch.setattr(rank_check, "place_of", lambda pci: Place(1, frozenset(), ("mlx5_0", "mlx5_1")))
    assert rank_check.choose_nic(torch.device("cuda", 0), binding) == named
    assert os.environ.get("NCCL_IB_HCA") == used
    group = Group("127.0.0.1", 1, 1, 0, 1, "n1", "cuda", 60.0, nic_binding=binding)
    assert group.environment(0)["WAVETRAIN_NIC_BINDING"] == binding


def test_a_full_disk_is_the_nodes_own_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(profile: Any) -> list[Finding]:
        return [Finding("run folder", "failed", "0.1 GiB free"), Finding("clock", "ok", "0 s")]

    monkeypatch.setattr("jobs.node.checks.examine_storage", full)
    with pytest.raises(BadNodeError, match=r"run folder: 0\.1 GiB free"):
        check_machine(Profile())
