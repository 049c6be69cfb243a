"""What a node with GPUs must have beyond what torch says of it: sound memory, full clocks, RDMA that may pin memory."""

import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.node.finding import Finding, Verdict
from orchestrator.monitoring.gpu_state import GpuState, NvmlError, read_gpus
from orchestrator.monitoring.topology import SYSFS, own_card, place_of

SHARED_MEMORY = Path("/dev/shm")
WARN_SHARED_MEMORY_GB = 1.0
MODULES = Path("/proc/modules")
PEER_MEMORY = "nvidia_peermem"


def examine_gpus() -> list[Finding]:
    """Every row about the GPUs that this process may use, and about what their communication needs."""
    try:
        gpus = read_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except NvmlError as error:
        return [Finding("GPUs", "failed", str(error))]
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    cards = rdma_cards(SYSFS)
    return [
        memory_errors(gpus),
        clocks(gpus),
        topology(gpus, SYSFS),
        locked_memory(limit, cards),
        shared_memory(shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0),
        peer_memory(MODULES.read_text() if MODULES.exists() else "", cards),
    ]


def memory_errors(gpus: Sequence[GpuState]) -> Finding:
    """Memory that ECC could not correct, and rows that could not be replaced."""
    problems: list[tuple[Verdict, str]] = []
    for gpu in gpus:
        if gpu.lost is not None:
            problems.append(("failed", f"GPU {gpu.index} is lost ({gpu.lost})"))
        elif gpu.remap_failed:
            problems.append(("failed", f"GPU {gpu.index}: remapping a row has failed, it must be replaced"))
        elif gpu.remap_pending:
            problems.append(("warning", f"GPU {gpu.index}: a row waits to be remapped, it must be reset"))
        elif gpu.uncorrected:
            problems.append(("warning", f"GPU {gpu.index}: {gpu.uncorrected} uncorrected since its driver was loaded"))
    return _row("ECC", problems, f"no uncorrected memory error on {len(gpus)} GPUs")


def clocks(gpus: Sequence[GpuState]) -> Finding:
    """GPUs that the machine slows down."""
    slow: list[tuple[Verdict, str]] = [
        ("warning", f"GPU {gpu.index} at {gpu.sm_mhz} of {gpu.most_sm_mhz} MHz: {', '.join(gpu.slowed_by)}")
        for gpu in gpus
        if gpu.slowed_by
    ]
    most = sorted({gpu.most_sm_mhz for gpu in gpus if gpu.most_sm_mhz is not None})
    return _row("clocks", slow, f"nothing slows the GPUs; they reach {', '.join(map(str, most)) or 'unknown'} MHz")


def topology(gpus: Sequence[GpuState], sysfs: Path) -> Finding:
    """CPUs and network cards beside each GPU: where its rank runs, and which card ``nic_binding: nearest`` gives it."""
    places = {gpu: place_of(gpu.pci, sysfs) for gpu in gpus if gpu.lost is None}
    own = {gpu: own_card(gpu.pci, sysfs) for gpu in places}
    text = "; ".join(
        f"GPU {gpu.index} {place}{f', its own {own[gpu]}' if own[gpu] else ''}" for gpu, place in places.items()
    )
    known = all(place.cpus for place in places.values())
    return Finding("topology", "ok" if known else "warning", text or "no GPU")


def locked_memory(limit: int, cards: Sequence[str]) -> Finding:
    """Bytes that a process may pin, which RDMA needs for its buffers. cards: of RDMA."""
    if limit == resource.RLIM_INFINITY:
        return Finding("memlock", "ok", "unlimited")
    text = f"{limit / 2**20:.0f} MiB may be locked"
    if not cards:
        return Finding("memlock", "ok", f"{text}; there is no RDMA card that needs it")
    return Finding("memlock", "warning", f"{text}, RDMA over {' '.join(cards)} needs it unlimited (limits.conf)")


def shared_memory(free_bytes: int) -> Finding:
    """Room for the buffers of ranks on one node."""
    free = free_bytes / 2**30
    verdict: Verdict = "warning" if free < WARN_SHARED_MEMORY_GB else "ok"
    return Finding("/dev/shm", verdict, f"{free:.1f} GiB free")


def peer_memory(modules: str, cards: Sequence[str]) -> Finding:
    """Whether network cards may read the memory of GPUs. modules: of the kernel, as /proc/modules lists them."""
    if any(line.split()[0] == PEER_MEMORY for line in modules.splitlines() if line.strip()):
        return Finding("nvidia-peermem", "ok", "loaded")
    if not cards:
        return Finding("nvidia-peermem", "ok", "not loaded; there is no RDMA card that needs it")
    text = "not loaded: unless NCCL finds DMA-BUF (NCCL_DEBUG=INFO says so), data goes through the host (modprobe)"
    return Finding("nvidia-peermem", "warning", text)


def rdma_cards(sysfs: Path) -> list[str]:
    """InfiniBand and RoCE cards of this machine."""
    return sorted(path.name for path in (sysfs / "class" / "infiniband").glob("*"))


def _row(check: str, problems: Sequence[tuple[Verdict, str]], sound: str) -> Finding:
    if not problems:
        return Finding(check, "ok", sound)
    verdict: Verdict = "failed" if any(kind == "failed" for kind, _ in problems) else "warning"
    return Finding(check, verdict, "; ".join(text for _, text in problems))
