"""What the controller gives every rank of a run to start with; the rest stands in the run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Where a rank finds the run, and what the cluster's profile says of the machine that it runs on."""

    run: Path
    """The run's folder, absolute: workers have working directories of their own."""
    device: Literal["cpu", "cuda"]
    threads: int = 1
    """Of torch, on the CPU."""
    cache: Path | None = None
    """Folder in node-local storage for copies of shards."""
    binding: Literal["numa", "none"] = "none"
    """Whether a rank runs on the CPUs beside its GPU only."""
    nic_binding: Literal["nearest", "none"] = "none"
    """Whether NCCL uses for a rank the RDMA card nearest to its GPU only."""
    peak_flops: float | None = None
    """Operations/s of one device as the profile states them; None: by the device's name."""
    first_steps_s: float = 900.0
    """Without a step until step times are known."""
