"""Which GPUs are broken: by NVML's counters (a stand-in answers), and by trying them."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.monitoring import device_health, device_trial
from orchestrator.monitoring.device_health import examine_node, find_problem, known_problems
from orchestrator.monitoring.gpu_state import GpuState, NvmlError, driver, read_gpus, sysfs_address
from tests.orchestrator.monitoring.nvml import Device, Nvml


def answering(monkeypatch: pytest.MonkeyPatch, *devices: Device, starts: bool = True) -> Nvml:
    nvml = Nvml(*devices, starts=starts)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def test_what_is_read_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = answering(monkeypatch, Device(uncorrected=2, remapped=(1, 3, 1, 0), mig=1,
                                         reasons=pynvml.nvmlClocksEventReasonHwThermalSlowdown))  # fmt: skip
    assert read_gpus() == [
        GpuState(0, "NVIDIA H800", "GPU-a", "0000:1b:00.0", 2, remap_pending=True, mig=True, sm_mhz=1755,
                 most_sm_mhz=1980, slowed_by=("too hot (hardware)",))
    ]  # fmt: skip
    assert driver() == "driver 580.95.05 for CUDA up to 13.1"
    assert nvml.open == 0


def test_a_device_without_ecc_has_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    unsupported = ("nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode")
    answering(monkeypatch, Device(unsupported=unsupported))
    (gpu,) = read_gpus()
    assert gpu.uncorrected is None and not (gpu.remap_pending or gpu.remap_failed or gpu.mig or gpu.lost)


@pytest.mark.parametrize("visible", ["1", "GPU-b", "GPU-b,"])
def test_only_the_devices_of_the_job_are_read(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    foreign = Device(uuid="GPU-c", hidden=pynvml.NVML_ERROR_NO_PERMISSION)
    answering(monkeypatch, Device(), Device(uuid="GPU-b"), foreign)
    assert [gpu.uuid for gpu in read_gpus(visible)] == ["GPU-b"]
    assert [gpu.uuid for gpu in read_gpus("")] == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize("visible", ["1,0", "GPU-c,GPU-b", "GPU-c,0"])
def test_devices_come_in_the_order_of_cuda_which_counts_those_of_the_job(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    foreign = Device(hidden=pynvml.NVML_ERROR_NO_PERMISSION)
    answering(monkeypatch, foreign, Device(uuid="GPU-b"), Device(uuid="GPU-c", pci="00000000:C1:00.0"))
    assert [(gpu.index, gpu.uuid) for gpu in read_gpus(visible)] == [(2, "GPU-c"), (1, "GPU-b")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(device_health, "_try", lambda limit_s: {0: "comes out wrong"})
    assert examine_node({}, 1.0) == "GPU 2 (0000:c1:00.0): comes out wrong"


def test_a_lost_device_is_listed_whatever_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Device(hidden=pynvml.NVML_ERROR_GPU_IS_LOST)
    answering(monkeypatch, lost, Device(uuid="GPU-b", fails=pynvml.NVML_ERROR_GPU_IS_LOST))
    assert [bool(gpu.lost) for gpu in read_gpus("GPU-b")] == [True, True]


def test_without_a_driver_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, starts=False)
    with pytest.raises(NvmlError, match="does not answer"):
        read_gpus()
    with pytest.raises(NvmlError):
        driver()


def test_addresses_are_those_of_sysfs() -> None:
    assert sysfs_address("00000000:1B:00.0") == "0000:1b:00.0" and sysfs_address("0000:C1:00.0") == "0000:c1:00.0"


@pytest.mark.parametrize(
    ("fields", "before", "says"),
    [
        ({}, {}, None),
        ({"uncorrected": 7}, {"GPU-a": 7}, None),
        ({"uncorrected": 7}, {}, None),
        ({"uncorrected": 7}, {"GPU-a": 5}, "2 new memory errors"),
        ({"uncorrected": None}, {"GPU-a": 5}, None),
        ({"remap_pending": True}, {}, "must be reset"),
        ({"remap_failed": True, "remap_pending": True}, {}, "must be replaced"),
        ({"lost": "GPU is lost"}, {}, "GPU is lost"),
        ({"slowed_by": ("too hot",), "mig": True}, {}, None),
    ],
)
def test_a_gpu_is_broken_by_what_is_new_or_left_to_be_done(
    fields: dict[str, Any], before: dict[str, int], says: str | None
) -> None:
    found = find_problem(GpuState(0, "NVIDIA H800", "GPU-a", "0000:1b:00.0", **fields), before)
    assert found == says if says is None else says in str(found)


@pytest.mark.parametrize("fields", [{"remap_pending": True}, {"remap_failed": True}, {"lost": "GPU is lost"}])
def test_what_was_so_before_the_attempt_explains_no_failure_and_hides_none(fields: dict[str, Any]) -> None:
    gpu = GpuState(3, "NVIDIA H800", "GPU-a", "0000:1b:00.0", uncorrected=5, **fields)
    known = known_problems([gpu])
    assert len(known) == 1 and find_problem(gpu, {"GPU-a": 5}, known) is None
    assert find_problem(gpu, {"GPU-a": 4}, known) == "1 new memory errors that ECC could not correct"
    assert find_problem(replace(gpu, index=4), {"GPU-a": 5}, known) is not None, "another GPU"


def test_a_user_s_error_on_a_gpu_that_waits_for_its_reset_is_no_broken_device(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Device(remapped=(0, 1, 1, 0)))
    monkeypatch.setattr(device_health, "_try", lambda limit_s: {})
    assert "must be reset" in str(examine_node({}, 1.0))
    assert examine_node({}, 1.0, known=known_problems(read_gpus())) is None


def test_a_node_names_its_broken_devices_by_number_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Device(), Device(uuid="GPU-b", pci="00000000:C1:00.0", remapped=(0, 1, 0, 1)))
    monkeypatch.setattr(device_health, "_try", lambda limit_s: pytest.fail("what NVML knows need not be tried"))
    assert examine_node({}, 1.0) == (
        "GPU 1 (0000:c1:00.0): remapping a row of its memory has failed: the GPU must be replaced"
    )


def test_a_device_that_nvml_holds_for_sound_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Device())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_health, "_try", lambda limit_s: {0: "comes out wrong"})
    assert examine_node({}, 1.0) == "GPU 0 (0000:1b:00.0): comes out wrong"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert examine_node({}, 1.0) is None, "a task that may see no device says nothing about the machine"


def test_a_driver_that_is_gone_is_a_fault_and_one_that_never_was_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, starts=False)
    monkeypatch.setattr(device_health, "_try", lambda limit_s: {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "does not answer" in str(examine_node({}, 1.0))
    assert examine_node({}, 1.0, answered=False) is None
    monkeypatch.setattr(device_health, "_try", lambda limit_s: {2: "comes out wrong"})
    assert examine_node({}, 1.0, answered=False) == "GPU 2: comes out wrong"


def test_a_trial_that_hangs_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Any, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert device_health._try(5.0) == {}


def test_a_trial_that_crashes_is_told() -> None:
    assert device_health._read_trial(0, ["{}"], []) == {}
    assert device_health._read_trial(0, ["warning", '{"3": "wrong"}'], []) == {3: "wrong"}
    (problem,) = device_health._read_trial(-11, [], ["Fatal Python error: Segmentation fault", ""]).values()
    assert "signal 11" in problem and "Segmentation fault" in problem
    assert device_health._read_trial(1, [], ["ModuleNotFoundError: No module named 'torch'"]) == {}


def test_the_trial_runs_here() -> None:
    done = device_health._try(120.0)
    assert done == {}, "this machine's devices work, or it has none"


def test_a_device_that_is_full_or_taken_is_not_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ("CUDA out of memory", "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "CUDA error: uncorrectable ECC error encountered")  # fmt: skip
    errors = iter(map(RuntimeError, said))

    def fail(device: Any) -> None:
        raise next(errors)

    monkeypatch.setattr(device_trial, "try_device", fail)
    monkeypatch.setattr(device_trial, "torch", SimpleNamespace(device=lambda *parts: parts))
    assert device_trial.try_all(3) == {2: "CUDA error: uncorrectable ECC error encountered"}
