"""The cluster spec: named profiles of where a job runs."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from channels.errors import UserError
from orchestrator.spec.job import Positive, Section
from orchestrator.spec.yaml_files import read_mapping, validate

TIME_PATTERN = re.compile(r"^(\d+-)?\d{1,2}:\d{2}(:\d{2})?$")
DEFAULT_FILE = Path("cluster.yaml")


class StorageSection(Section):
    """Folders; relative ones start at the working directory."""

    runs: Path = Path("runs")
    """Run directories, checkpoints and the default MLflow database; shared by all nodes."""
    cache: Path | None = None
    """Node-local folder for copies of shards; null: none are made."""


class NetworkSection(Section):
    """What Ray and torch.distributed bind to."""

    interface: str | None = None
    """Name of the interface, e.g. ``bond0``; null: loopback, one node only."""
    bind: str = "127.0.0.1"
    """Address of web pages (MLflow UI, Ray dashboard)."""
    check: bool = True
    """In a Slurm job, try every rank's device and measure the network before training (some seconds an attempt)."""
    least_gb_s: Annotated[float, Field(gt=0)] | None = None
    """A node that exchanges less (GB/s) with every other one is left out of the next attempt; null: only named."""


class SlurmSection(Section):
    """The Slurm allocation of one attempt."""

    partition: str
    account: str | None = None
    qos: str | None = None
    time: str = "24:00:00"
    nodes: Positive = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    cpus_per_gpu: Positive = 8
    memory_gb: Positive | None = None
    exclude: tuple[str, ...] = ()
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    """Shell lines run on every node before Python starts (modules, environment)."""
    signal_lead_s: Positive = 120
    """Seconds between the signal for a checkpoint and the time limit."""
    max_requeues: Annotated[int, Field(ge=0)] = 100
    bootstrap_timeout_s: Positive = 300
    """Seconds in which every node of the allocation must have joined Ray."""

    @field_validator("time")
    @classmethod
    def _time(cls, time: str) -> str:
        if not TIME_PATTERN.match(time):
            raise ValueError("not a Slurm time; write [days-]hours:minutes:seconds in quotes, e.g. '24:00:00'")
        return time

    @model_validator(mode="after")
    def _time_to_train(self) -> "SlurmSection":
        if seconds(self.time) <= self.signal_lead_s:
            raise ValueError(
                f"slurm.time {self.time} is over before signal_lead_s {self.signal_lead_s}; raise the time"
            )
        return self


def seconds(time: str) -> int:
    """Slurm's ``[days-]hours:minutes[:seconds]`` or ``minutes:seconds``."""
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, mins, secs = (*parts, 0, 0)[:3]
    else:
        hours, mins, secs = (0, *parts) if len(parts) == 2 else parts
    return int(days or 0) * 86400 + hours * 3600 + mins * 60 + secs


class Profile(Section):
    """A machine or cluster to run on."""

    launcher: Literal["local", "ray", "slurm"] = "local"
    device: Literal["cpu", "cuda"] = "cpu"
    cpus_per_worker: Positive = 1
    device_peak_flops: Annotated[float, Field(gt=0)] | None = None
    """Operations/s of a worker's device in the job's precision; null: by its name, and no MFU if that is unknown."""
    ray_address: str | None = None
    """Address of a standing Ray cluster (launcher ``ray``), or of the one that a Slurm job started for itself."""
    ray_dashboard: str | None = None
    """Address of that cluster's dashboard and job server, e.g. ``http://10.0.0.1:8265``."""
    storage: StorageSection = StorageSection()
    network: NetworkSection = NetworkSection()
    slurm: SlurmSection | None = None

    def with_absolute_folders(self) -> "Profile":
        """The same with folders that do not depend on the working directory."""
        folders = {name: folder.absolute() for name, folder in self.storage if folder is not None}
        return self.model_copy(update={"storage": self.storage.model_copy(update=folders)})

    @model_validator(mode="after")
    def _complete(self) -> "Profile":
        if (self.launcher == "slurm") != (self.slurm is not None):
            raise ValueError("launcher slurm and a slurm section go together; add or remove one of them")
        if self.launcher == "ray" and not self.ray_address:
            raise ValueError("launcher ray needs ray_address, e.g. 10.0.0.1:6379")
        return self


class ClusterSpec(Section):
    """All profiles of a cluster file."""

    default: str
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _default_exists(self) -> "ClusterSpec":
        if self.default not in self.profiles:
            raise ValueError(f"default {self.default!r} is not one of the profiles {', '.join(self.profiles)}")
        return self


def load_profile(path: Path | None, name: str | None) -> Profile:
    """A profile of a cluster file; without a file, ``cluster.yaml`` here, else the built-in laptop.

    Raises:
        UserError: broken file or unknown profile.
    """
    cluster = _load(path)
    if cluster is None:
        if name not in (None, "laptop"):
            raise UserError(f"no profile {name!r}: there is no cluster.yaml here", where="--cluster", mend="write one")
        return Profile()
    chosen = name or cluster.default
    if chosen not in cluster.profiles:
        known, source = ", ".join(cluster.profiles), path or DEFAULT_FILE
        raise UserError(f"no profile {chosen!r}", where=str(source), mend=f"known: {known}")
    return cluster.profiles[chosen]


def run_folders(path: Path | None, name: str | None) -> list[Path]:
    """Where runs lie: of one profile, or, where none is named, of all profiles, the default's first.

    Raises:
        UserError: broken file or unknown profile.
    """
    cluster = _load(path) if name is None else None
    if cluster is None:
        return [load_profile(path, name).storage.runs]
    profiles = (cluster.profiles[cluster.default], *cluster.profiles.values())
    return list({profile.storage.runs.absolute(): profile.storage.runs for profile in profiles}.values())


def _load(path: Path | None) -> ClusterSpec | None:
    if path is None and not DEFAULT_FILE.exists():
        return None
    source = path or DEFAULT_FILE
    return validate(ClusterSpec, read_mapping(source), str(source))
