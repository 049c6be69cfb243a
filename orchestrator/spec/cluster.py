"""The cluster spec: named profiles of where a job runs."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from channels.errors import UserError
from channels.yaml_files import read_mapping
from orchestrator.spec.container import ContainerSection
from orchestrator.spec.notify import NotifySection
from orchestrator.spec.sbatch_options import read_option
from orchestrator.spec.section import FolderPath, Positive, Section
from orchestrator.spec.yaml_files import validate

TIME_PATTERN = re.compile(r"^(\d+-)?\d{1,2}:\d{2}(:\d{2})?$")
ENVIRONMENT_PATTERN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
LEAST_S, EARLY_S = 60, 30
"""Seconds that an attempt needs to start, and by which Slurm may ask it to stop too early: with fewer of both it would
be stopped before its first step, again and again."""
DEFAULT_FILE = Path("cluster.yaml")


class StorageSection(Section):
    """Folders; relative ones start at the working directory."""

    runs: FolderPath = Path("runs")
    """Run directories, checkpoints and the default MLflow database; shared by all nodes."""
    cache: FolderPath | None = None
    """Node-local folder for copies of shards; null: none are made."""


class NetworkSection(Section):
    """What Ray and torch.distributed bind to."""

    interface: str | None = None
    """Name of the interface, e.g. ``bond0``; null: loopback, one node only."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the ranks and of the check before them (``NCCL_*``, ``TORCH_NCCL_*``, ``UCX_*``); they
    win over those of the user's shell."""
    bind: str = "127.0.0.1"
    """Address of web pages (MLflow UI, Ray dashboard)."""
    check: bool = True
    """In a Slurm job, try every rank's device and measure the network before training (some seconds an attempt)."""
    least_gb_s: Annotated[float, Field(gt=0)] | None = None
    """A node that exchanges less (GB/s) with every other one is left out of the next attempt; null: only named."""
    least_rail_gb_s: Annotated[float, Field(gt=0)] | None = None
    """The same for each rank of a node and its NIC, while all ranks of all nodes exchange at once."""

    @field_validator("env", mode="before")
    @classmethod
    def _texts(cls, env: Any) -> Any:
        """YAML reads ``NCCL_IB_GID_INDEX: 3`` as a number; an environment holds texts."""
        if not isinstance(env, dict):
            return env
        wrong = [name for name in env if not ENVIRONMENT_PATTERN.match(str(name))]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no name of an environment variable")
        return {str(name): str(value) if type(value) in (int, float) else value for name, value in env.items()}


class TimeLimitsSection(Section):
    """Seconds after which waiting is given up. The defaults have room for 64 ranks on a shared file system."""

    rank_check_s: Positive = 600
    """For the ranks' check before training, from the start of their processes to their end."""
    ray_node_s: Positive = 120
    """For Ray to start a worker process, which imports its packages from the file system."""
    worker_group_s: Positive = 300
    """For Ray to find room for all ranks."""
    process_group_s: Positive = 1800
    """For a collective operation, and for the ranks to find one another (torch's process group)."""
    shutdown_s: Positive = 3
    """For the process group to be taken down; ranks whose group is broken are ended after that."""
    device_check_s: Positive = 90
    """For a node to try its devices after a failure; one that has not answered is not blamed."""
    first_steps_s: Positive = 900
    """Without a step until step times are known: the first ones may compile kernels."""
    silence_s: Annotated[int, Field(ge=4)] = 20
    """Of a machine that answers no more, until it counts as lost (Slurm only)."""
    file_s: Positive = 30
    """Until a file that one node wrote is seen on another."""
    leave_s: Positive = 60
    """For the other nodes of an attempt to end before the next one is asked for."""
    lock_s: Positive = 120
    """For an earlier controller of the run to end, or its lock to be given up by the file server."""


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
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, as on its command line: ``--gres=gpu:h800:8``, ``--reservation=radio``,
    ``--exclusive``, ``--mem=0``. They replace what Wavetrain would write."""
    setup: tuple[str, ...] = ()
    """Shell lines run on every node before Python starts (modules, environment)."""
    container: ContainerSection | None = None
    """What every node's task runs in; null: the nodes themselves."""
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
        days, _, clock = time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if any(part > 59 for part in parts[1:]) or (days and parts[0] > 23):
            raise ValueError("no such time; minutes and seconds go to 59, and hours after days to 23")
        return time

    @field_validator("sbatch")
    @classmethod
    def _sbatch(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            read_option(option)
        return options

    @property
    def sbatch_options(self) -> dict[str, str | bool]:
        """``sbatch`` by name, without dashes; True for one without a value."""
        return dict(map(read_option, self.sbatch))

    @model_validator(mode="after")
    def _time_to_train(self) -> "SlurmSection":
        left = seconds(self.time) - self.signal_lead_s
        if left < LEAST_S + EARLY_S:
            raise ValueError(
                f"slurm.time {self.time} less signal_lead_s {self.signal_lead_s} leaves {max(left, 0)} s to start and "
                f"train, too few for a step; lower signal_lead_s or raise the time"
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
    binding: Literal["numa", "none"] = "numa"
    """``numa``: a rank runs on the CPUs beside its GPU, and leaves one of node 0 to the controller (CUDA only)."""
    nic_binding: Literal["nearest", "none"] = "none"
    """``nearest``: NCCL uses for a rank the RDMA card nearest to its GPU only; ``none``: NCCL chooses by itself."""
    device_peak_flops: Annotated[float, Field(gt=0)] | None = None
    """Operations/s of a worker's device in the job's precision; null: by its name, and no MFU if that is unknown."""
    ray_address: str | None = None
    """Address of a standing Ray cluster (launcher ``ray``), or of the one that a Slurm job started for itself."""
    ray_dashboard: str | None = None
    """Address of that cluster's dashboard and job server, e.g. ``http://10.0.0.1:8265``."""
    storage: StorageSection = StorageSection()
    network: NetworkSection = NetworkSection()
    time_limits: TimeLimitsSection = TimeLimitsSection()
    notify: NotifySection = NotifySection()
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
