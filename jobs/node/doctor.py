"""What a machine must have before training starts on it: a list of checks, each with a verdict and what it found."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from channels.errors import UserError
from jobs.node.finding import Finding, Verdict
from jobs.node.gpu_rows import examine_gpus
from jobs.node.network_check import RankCheckError, describe, measure_here
from jobs.node.port_window import claim, interface_address
from jobs.node.versions import versions
from models.scan.kernel_package import OPERATIONS, load_fault
from orchestrator.monitoring.gpu_state import NvmlError, driver
from orchestrator.spec.cluster import Profile
from orchestrator.tracking.mlflow_run import check_uri, default_uri, try_writing

WARN_FREE_GB, LEAST_FREE_GB = 20.0, 1.0
WARN_SKEW_S, MOST_SKEW_S = 1.0, 30.0


def examine(profile: Profile, tracking_uri: str | None = None, ranks: int = 0) -> list[Finding]:
    """Every check, whatever the others found. ranks: how many exchange data on this machine; none if 0."""
    checks: list[Callable[[], list[Finding]]] = [
        lambda: [Finding("versions", "ok", ", ".join(f"{name} {number}" for name, number in versions().items()))],
        lambda: [_device(profile)],
        lambda: examine_gpus() if profile.device == "cuda" else [],
        lambda: [_kernels(profile)],
        lambda: examine_storage(profile),
        lambda: [_ports(profile)],
        lambda: [_ranks(profile, ranks)] if ranks else [],
        lambda: [_tracking(tracking_uri or default_uri(profile.storage.runs))],
    ]
    return [finding for check in checks for finding in check()]


def default_ranks(profile: Profile) -> int:
    """Two, where there are devices for them."""
    if profile.device == "cpu":
        return 2
    from orchestrator.monitoring.whole_gpus import count_devices

    return count_devices().for_ranks(2)


def examine_storage(profile: Profile) -> list[Finding]:
    """Folders can be written, have room, and their file server shares our clock."""
    found = [_folder("run folder", profile.storage.runs)]
    if profile.storage.cache is not None:
        found.append(_folder("shard cache", profile.storage.cache))
    if found[0].verdict != "failed":
        found.append(_clock(_existing(profile.storage.runs)))
    return found


def _device(profile: Profile) -> Finding:
    if profile.device == "cpu":
        return Finding("device", "ok", f"{len(os.sched_getaffinity(0))} CPUs")
    import torch

    from orchestrator.monitoring.whole_gpus import count_devices

    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} for CUDA {torch.version.cuda or 'none'}"
        return Finding("device", "failed", f"{built} sees no GPU ({_driver()}): docs/gpu-nodes.md has which fits which")
    free = [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]
    text = ", ".join(f"{have / 2**30:.0f} of {total / 2**30:.0f} GiB free" for have, total in free)
    busy = any(have < 0.9 * total for have, total in free)
    name, gpus = torch.cuda.get_device_name(0), count_devices()
    slices = f"; {gpus}, and several ranks need whole GPUs" if gpus.slices else ""
    verdict: Verdict = "warning" if busy or gpus.slices else "ok"
    return Finding("device", verdict, f"{len(free)} x {name}: {text}; {_driver()}{slices}")


def _driver() -> str:
    """Version of the NVIDIA driver, and the newest CUDA that it serves."""
    try:
        return driver()
    except NvmlError as error:
        return f"driver unknown ({error})"


def _kernels(profile: Profile) -> Finding:
    if profile.device != "cuda":
        return Finding("WiMamba kernels", "ok", "for GPUs; on a CPU WiMamba uses its own scan")
    faults = [fault for operation in OPERATIONS if (fault := load_fault(operation)) is not None]
    if not faults:
        return Finding("WiMamba kernels", "ok", f"{' and '.join(OPERATIONS)} load")
    return Finding("WiMamba kernels", "warning", f"{'; '.join(faults)}: WiMamba uses its own")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _folder(what: str, folder: Path) -> Finding:
    existing = _existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(what, "failed", f"{existing} cannot be written")
    free = shutil.disk_usage(existing).free / 2**30
    verdict: Verdict = "failed" if free < LEAST_FREE_GB else "warning" if free < WARN_FREE_GB else "ok"
    return Finding(what, verdict, f"{folder}: {free:.1f} GiB free")


def _clock(folder: Path) -> Finding:
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".wavetrain-clock-") as file:
        stamp = Path(file.name).stat().st_mtime
    # A file system stamps with the tick before, some milliseconds back.
    skew = max(before - stamp, stamp - time.time(), 0.0)
    verdict: Verdict = "failed" if skew > MOST_SKEW_S else "warning" if skew > WARN_SKEW_S else "ok"
    return Finding("clock", verdict, f"{skew:.2f} s from that of the run folder")


def _ports(profile: Profile) -> Finding:
    if profile.launcher != "slurm":
        return Finding("ports", "ok", "chosen by Ray")
    try:
        address = interface_address(profile.network.interface)
        window = claim(address, os.getpid(), 0)
    except UserError as error:
        return Finding("ports", "failed", str(error))
    window.release()
    return Finding("ports", "ok", f"{address}, window from {window.first} is free")


def _ranks(profile: Profile, count: int) -> Finding:
    try:
        found = measure_here(count, profile.device, profile.time_limits.rank_check_s)
    except RankCheckError as error:
        return Finding("ranks", "failed", str(error))
    return Finding("ranks", "ok", describe(found))


def _tracking(uri: str) -> Finding:
    try:
        check_uri(uri)
        if uri.startswith("http"):
            try_writing(uri, platform.node())
    except UserError as error:
        return Finding("MLflow", "failed", str(error))
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        # sqlite writes its journal beside the file.
        for path in {_existing(database), _existing(database.parent)}:
            if not os.access(path, os.W_OK):
                return Finding("MLflow", "failed", f"{uri}: {path} cannot be written")
    return Finding("MLflow", "ok", uri)
