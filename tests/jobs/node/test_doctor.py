"""The checks before training."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from jobs.node import doctor
from jobs.node import versions as versions_module
from jobs.node.doctor import default_ranks, examine, examine_storage
from jobs.node.finding import Finding
from jobs.node.versions import versions
from models.scan.kernel_package import load_fault
from orchestrator.monitoring import whole_gpus
from orchestrator.monitoring.whole_gpus import Gpus
from orchestrator.spec.cluster import Profile


def profile_in(folder: Path, **fields: Any) -> Profile:
    return Profile.model_validate({"storage": {"runs": str(folder / "runs")}, **fields})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_this_machine_is_ready_and_nothing_is_left(tmp_path: Path) -> None:
    found = by_name(examine(profile_in(tmp_path)))
    assert set(found) == {"versions", "device", "WiMamba kernels", "run folder", "clock", "ports", "MLflow"}
    assert not [finding for finding in found.values() if finding.verdict == "failed"], found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("device", "gpus", "ranks"), [("cpu", 0, 2), ("cuda", 1, 1), ("cuda", 8, 2), ("cuda", 0, 0)])
def test_ranks_that_exchange_data_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, ranks: int
) -> None:
    monkeypatch.setattr(whole_gpus, "count_devices", lambda: Gpus(gpus, 0))
    assert default_ranks(profile_in(tmp_path, device=device)) == ranks


@pytest.mark.parametrize(
    ("installed", "device", "verdict", "says"),
    [
        (
            ("selective_scan_cuda", "causal_conv1d_cuda"),
            "cuda",
            "ok",
            "selective_scan_cuda and causal_conv1d_cuda load",
        ),
        (("causal_conv1d_cuda", "mamba_ssm"), "cuda", "warning", "without its compiled extension selective_scan_cuda"),
        (("selective_scan_cuda",), "cuda", "warning", "causal-conv1d is not installed: WiMamba uses its own"),
        (("selective_scan_cuda", "causal_conv1d_cuda", "broken"), "cuda", "warning", "installed but does not load"),
        ((), "cpu", "ok", "on a CPU WiMamba uses its own scan"),
    ],
)
def test_kernels_of_wimamba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], device: str,
                            verdict: str, says: str) -> None:  # fmt: skip
    real = importlib.util.find_spec
    names = ("selective_scan_cuda", "causal_conv1d_cuda", "mamba_ssm", "causal_conv1d")
    found = {name: SimpleNamespace() if name in installed else None for name in names}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found[name] if name in names else real(name))
    for name in names[:2]:
        monkeypatch.setitem(sys.modules, name, None if "broken" in installed else ModuleType(name))
    load_fault.cache_clear()
    row = doctor._kernels(profile_in(tmp_path, device=device))
    load_fault.cache_clear()
    assert row.verdict == verdict and says in row.found


def test_versions_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "PACKAGES", ("numpy", "no-such-package"))
    found = versions()
    assert found["no-such-package"] == "missing" and found["numpy"][0].isdigit()


def test_the_table_needs_none_of_the_engines_to_be_installed() -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'sionna', 'h5py', 'submitit', 'deepspeed'): sys.modules[name] = None\n"
        "from jobs.node import doctor\nfrom jobs.node.versions import versions\nprint(len(versions()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("free_gb", "verdict"), [(0.5, "failed"), (5.0, "warning"), (500.0, "ok")])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, verdict: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free_gb * 2**30))
    assert by_name(examine_storage(profile_in(tmp_path)))["run folder"].verdict == verdict


@pytest.mark.parametrize(("skew_s", "verdict"), [(0.0, "ok"), (5.0, "warning"), (-5.0, "warning"), (90.0, "failed")])
def test_the_clock_of_the_file_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float, verdict: str
) -> None:
    import time

    true = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: true() + skew_s)
    assert by_name(examine_storage(profile_in(tmp_path)))["clock"].verdict == verdict


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    found = by_name(examine_storage(profile_in(tmp_path)))
    assert found["run folder"].verdict == "failed" and "clock" not in found


def test_a_database_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    assert doctor._tracking(f"sqlite:///{database}").verdict == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: place != database)
    found = doctor._tracking(f"sqlite:///{database}")
    assert found.verdict == "failed" and "cannot be written" in found.found


def test_without_a_driver_its_version_is_unknown() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert doctor._driver().startswith("driver unknown (")
    else:
        assert doctor._driver().startswith("driver ") and " for CUDA up to " in doctor._driver()


def test_a_slurm_profile_with_a_wrong_interface_and_a_silent_server(tmp_path: Path) -> None:
    slurm = {"launcher": "slurm", "slurm": {"partition": "gpu"}, "network": {"interface": "bond77"}}
    found = by_name(examine(profile_in(tmp_path, **slurm), "http://127.0.0.1:9"))
    assert found["ports"].verdict == "failed" and "bond77" in found["ports"].found
    assert found["MLflow"].verdict == "failed" and "unreachable" in found["MLflow"].found
    assert list(tmp_path.iterdir()) == []
