"""What NVML, sysfs and torch's allocator say of a real GPU, beside the stand-ins that decisions are tested with."""

import os

import numpy as np
import pytest
import torch

from jobs.node.gpu_rows import examine_gpus
from orchestrator.monitoring.allocator import allocator_metrics, allocator_statistics
from orchestrator.monitoring.device_health import examine_node
from orchestrator.monitoring.device_trial import try_all
from orchestrator.monitoring.flight_recorder import write_flight_recorder
from orchestrator.monitoring.gpu_state import driver, read_gpus
from orchestrator.monitoring.whole_gpus import count_devices, is_slice
from orchestrator.training.mfu import known_peak

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]


def test_nvml_and_torch_mean_the_same_device() -> None:
    pytest.importorskip("pynvml")
    uuids = [gpu.uuid.removeprefix("GPU-") for gpu in read_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))]
    assert str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-") in uuids
    assert "for CUDA up to" in driver()


def test_a_sound_device_is_held_for_sound() -> None:
    assert try_all(torch.cuda.device_count()) == {}
    pytest.importorskip("pynvml")
    counts = {gpu.uuid: gpu.uncorrected for gpu in read_gpus() if gpu.uncorrected is not None}
    assert examine_node(counts, 120.0) is None


def test_every_row_about_the_gpus_is_made() -> None:
    pytest.importorskip("pynvml")
    found = {row.check: row for row in examine_gpus()}
    assert set(found) == {"ECC", "clocks", "topology", "memlock", "/dev/shm", "nvidia-peermem"}
    assert found["ECC"].verdict != "failed", found


def test_a_whole_device_is_counted_and_its_peak_is_known() -> None:
    name = torch.cuda.get_device_name(0)
    assert count_devices().for_ranks(1) == 1
    assert is_slice(name) or known_peak(name, "bf16") is not None, name


def test_the_allocator_has_the_statistics_that_are_read() -> None:
    torch.ones(1 << 20, device="cuda")
    found = allocator_metrics(np.array([allocator_statistics(torch.device("cuda", 0))]))
    assert found["memory/reserved_megabytes"] >= found["memory/allocated_megabytes"] >= 4.0


def test_the_flight_recorder_keeps_collective_operations(one_rank: None, tmp_path) -> None:
    torch.distributed.all_reduce(torch.ones(7, device="cuda"))
    assert write_flight_recorder(tmp_path / "operations.json")
    assert b"nccl:all_reduce" in (tmp_path / "operations.json").read_bytes()
