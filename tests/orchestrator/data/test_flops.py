"""Operations and utilisation against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from channels.errors import UserError
from models.registry import make_spec
from orchestrator.data.flops import StepWork, device_peak, known_peak, padded_flops, valid_flops
from orchestrator.spec.cluster import load_profile
from samplers.schedule import Slice

FORWARD = np.array([10.0, 40.0])
"""Operations of a sample of either source."""


def piece(source: list[int], weight: list[float]) -> Slice:
    return Slice(0, 4, np.array(source, np.int32), np.arange(len(source)), np.array(weight, np.float32), epoch=0)


def test_valid_operations_count_true_samples_padded_ones_all_as_the_dearest() -> None:
    mixed, short = piece([0, 0, 1], [1, 1, 1]), piece([0, 0], [1, 0])
    # 3 passes x (10 + 10 + 40) and 3 x 10: the filler is none of the samples.
    assert valid_flops(FORWARD, [mixed, short]) == 210.0
    # 3 passes x 3 samples of 40, and 3 x 2 samples of 10: the filler is computed.
    assert padded_flops(FORWARD, mixed) == 360.0
    assert padded_flops(FORWARD, short) == 60.0


def test_forward_operations_of_a_small_hetercsi() -> None:
    # 8 tokens (grid 2 x 2 x 2); kept: floor(8 x .15) = 1, half of the slots = 4, half of the subcarriers = 4.
    spec = make_spec("hetercsi", {"size": "tiny"})

    def macs(kept: int) -> int:
        encoder = 4 * (kept * 96 * 96 * 12 + 2 * kept * kept * 96)
        decoder = 2 * (8 * 64 * 64 * 12 + 2 * 8 * 8 * 64)
        return kept * 96 * 128 + encoder + kept * 96 * 64 + decoder + 8 * 64 * 128

    assert spec.forward_flops((8, 8, 8), 4) == 2 * (macs(1) + macs(4) + macs(4))


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
