"""Speeds and utilisation against numbers worked out by hand."""

from pathlib import Path

import pytest

from channels.errors import UserError
from orchestrator.spec.cluster import load_profile
from orchestrator.training.mfu import StepWork, device_peak, known_peak


def test_speeds_of_a_step() -> None:
    work = StepWork(valid_tokens=300, computed_tokens=400, valid_flops=6e12, computed_flops=8e12)
    assert work.speeds(2.0, peak=12e12) == {
        "perf/tokens_per_s": 150.0,
        "perf/computed_tokens_per_s": 200.0,
        "perf/flops_per_s": 3e12,
        "perf/computed_flops_per_s": 4e12,
        "perf/mfu": 0.25,
    }
    assert "perf/mfu" not in work.speeds(2.0, peak=None)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H100 NVL", 835e12, 60e12),
        ("NVIDIA H200", 989e12, 67e12),
        ("NVIDIA H800", 989e12, 67e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA H800 PCIe", 756e12, 51e12),
        ("NVIDIA H20", 148e12, 44e12),
        ("NVIDIA A800-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A800 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA GH200 480GB", 990e12, 67e12),
        ("NVIDIA B200", 2250e12, 75e12),
        ("NVIDIA GB200", 2500e12, 80e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
    ],
)
def test_known_devices(name: str, bf16: float | None, fp32: float | None) -> None:
    assert (known_peak(name, "bf16"), known_peak(name, "fp32")) == (bf16, fp32)


def test_a_stated_peak_counts_and_a_cpu_has_none() -> None:
    assert device_peak("cpu", "fp32", stated=None) is None
    assert device_peak("cpu", "fp32", stated=5e10) == 5e10
    assert device_peak("cuda", "bf16", stated=5e14) == 5e14


def test_the_profile_states_the_peak(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("default: a\nprofiles: {a: {device_peak_flops: 5.0e+10}}\n")
    assert load_profile(path, None).device_peak_flops == 5e10
    path.write_text("default: a\nprofiles: {a: {device_peak_flops: -1}}\n")
    with pytest.raises(UserError, match="device_peak_flops"):
        load_profile(path, None)
