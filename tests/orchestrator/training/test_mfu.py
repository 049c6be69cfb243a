"""Speeds and utilisation against numbers worked out by hand."""

from pathlib import Path

import pytest

from channels.errors import UserError
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.train import TrainSection
from orchestrator.training.mfu import StepWork, device_peak, known_peak, products_of_float32


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
    assert device_peak("cpu", TrainSection(), stated=None) is None
    assert device_peak("cpu", TrainSection(), stated=5e10) == 5e10
    assert device_peak("cuda", TrainSection(precision="bf16"), stated=5e14) == 5e14


def test_how_float32_is_multiplied_is_said_and_has_no_known_peak_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    plain, rounded, mixed = TrainSection(), TrainSection(tf32=True), TrainSection(precision="bf16", tf32=True)
    assert device_peak("cuda", plain, None) == 67e12 and device_peak("cuda", rounded, None) is None
    assert device_peak("cuda", mixed, None) == 989e12
    assert "in full" in (products_of_float32("cuda", plain) or "")
    assert "TF32" in (products_of_float32("cuda", rounded) or "")
    assert products_of_float32("cuda", mixed) is None and products_of_float32("cpu", rounded) is None


def test_the_profile_states_the_peak(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("default: a\nprofiles: {a: {device_peak_flops: 5.0e+10}}\n")
    assert load_profile(path, None).device_peak_flops == 5e10
    path.write_text("default: a\nprofiles: {a: {device_peak_flops: -1}}\n")
    with pytest.raises(UserError, match="device_peak_flops"):
        load_profile(path, None)
