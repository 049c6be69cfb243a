"""Rows of the doctor about a node with GPUs, each from what a machine says; NVML is a stand-in."""

import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.node.doctor import examine
from jobs.node.gpu_rows import (
    clocks,
    examine_gpus,
    locked_memory,
    memory_errors,
    peer_memory,
    rdma_cards,
    shared_memory,
    topology,
)
from orchestrator.monitoring.gpu_state import GpuState
from orchestrator.spec.cluster import Profile
from tests.orchestrator.monitoring.machines import two_sockets
from tests.orchestrator.monitoring.nvml import Device, Nvml
from tests.orchestrator.monitoring.test_topology import make_sysfs


def gpu(index: int = 0, **fields: Any) -> GpuState:
    return GpuState(index, "NVIDIA H800", f"GPU-{index}", "0000:1b:00.0", **{"most_sm_mhz": 1980, **fields})


@pytest.mark.parametrize(
    ("gpus", "verdict", "says"),
    [
        ([gpu(), gpu(1)], "ok", "no uncorrected memory error on 2 GPUs"),
        ([gpu(), gpu(1, uncorrected=3)], "warning", "GPU 1: 3 uncorrected"),
        ([gpu(2, remap_pending=True)], "warning", "GPU 2: a row waits to be remapped, it must be reset"),
        ([gpu(3, remap_failed=True), gpu(4, uncorrected=1)], "failed", "GPU 3: remapping a row has failed"),
        ([gpu(5, lost="GPU is lost")], "failed", "GPU 5 is lost (GPU is lost)"),
    ],
)
def test_memory_errors(gpus: list[GpuState], verdict: str, says: str) -> None:
    found = memory_errors(gpus)
    assert found.verdict == verdict and says in found.found


def test_clocks() -> None:
    assert clocks([gpu(), gpu(1)]).found == "nothing slows the GPUs; they reach 1980 MHz"
    slow = clocks([gpu(), gpu(1, sm_mhz=345, slowed_by=("too hot (hardware)",))])
    assert (slow.verdict, slow.found) == ("warning", "GPU 1 at 345 of 1980 MHz: too hot (hardware)")


def test_topology_shows_where_every_rank_runs(tmp_path: Path) -> None:
    sysfs = make_sysfs(tmp_path)
    found = topology([gpu()], sysfs)
    assert (found.verdict, found.found) == ("ok", "GPU 0 NUMA node 0, CPUs 0-3, NIC mlx5_0")
    assert topology([gpu()], tmp_path / "nowhere").verdict == "warning"
    machine = two_sockets(tmp_path / "whole", switches=False)
    gpus = [replace(gpu(index), pci=address) for index, address in enumerate(machine.gpus)]
    (last,) = [text for text in topology(gpus, machine.root).found.split("; ") if text.startswith("GPU 7")]
    assert last == "GPU 7 NUMA node 1, CPUs unknown, NIC mlx5_4 mlx5_5 mlx5_6 mlx5_7, its own mlx5_7:1"
    assert rdma_cards(sysfs) == ["mlx5_0", "mlx5_1"] and rdma_cards(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("limit", "cards", "verdict"),
    [(resource.RLIM_INFINITY, ["mlx5_0"], "ok"), (8 << 20, ["mlx5_0"], "warning"), (8 << 20, [], "ok")],
)
def test_memory_that_rdma_may_lock(limit: int, cards: list[str], verdict: str) -> None:
    assert locked_memory(limit, cards).verdict == verdict


@pytest.mark.parametrize(
    ("modules", "cards", "verdict"),
    [
        ("nvidia_peermem 16384 0 - Live 0x0\nnvidia 1 1 nvidia_peermem, Live 0x0\n", ["mlx5_0"], "ok"),
        ("nvidia 1 1 nvidia_peermem_other, Live 0x0\n", ["mlx5_0"], "warning"),
        ("", [], "ok"),
    ],
)
def test_memory_of_gpus_for_network_cards(modules: str, cards: list[str], verdict: str) -> None:
    assert peer_memory(modules, cards).verdict == verdict


def test_room_for_the_buffers_of_ranks() -> None:
    assert shared_memory(64 << 20).verdict == "warning" and shared_memory(64 << 30).verdict == "ok"


def test_a_node_with_gpus_has_a_row_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(Device()))
    assert [row.check for row in examine_gpus()] == [
        "ECC", "clocks", "topology", "memlock", "/dev/shm", "nvidia-peermem",
    ]  # fmt: skip
    profile = Profile.model_validate({"device": "cuda", "storage": {"runs": str(tmp_path / "runs")}})
    assert {"ECC", "device", "memlock"} <= {row.check for row in examine(profile)}
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(starts=False))
    (row,) = examine_gpus()
    assert row.verdict == "failed" and "NVML does not answer" in row.found
