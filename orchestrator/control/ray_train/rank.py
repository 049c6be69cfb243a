"""What Ray Train starts on every rank: its output kept, its CPUs chosen, then training; and how and when it failed."""

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from channels.files import write_json
from orchestrator.control.ray_train.environment import NODE, host_name
from orchestrator.control.ray_train.reaper import MEMORY
from orchestrator.monitoring.device_health import known_problems
from orchestrator.monitoring.gpu_state import GpuState, NvmlError, read_gpus
from orchestrator.monitoring.topology import (
    CARDS_OF_NCCL,
    as_ranges,
    bind_process,
    cpus_for_rank,
    own_card,
    place_of,
    use_card,
)
from orchestrator.run.disk_full import disk_full_as_user_error
from orchestrator.run.failures import RankError
from orchestrator.run.folder import RunDirectory
from orchestrator.run.rank_log import begin_attempt, keep_output, log_file
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.training.build import build
from orchestrator.training.worker import train

ATTEMPT = "wavetrain/attempt"
"""Key in the store by which the ranks found each other."""


def ray_worker(config: WorkerConfig) -> None:
    """Entry of a Ray Train worker.

    Raises:
        RankError: with what training raised, when and where.
    """
    import ray

    directory, rank = RunDirectory(config.run), dist.get_rank()
    attempts = directory.attempts
    if config.device == "cuda":
        # torch's own flight recorder makes no folder.
        directory.stacks.mkdir(exist_ok=True)
    attempt = agree_on_attempt(attempts)
    keep_output(log_file(attempts, attempt, rank))
    with kept_errors():
        record = describe_rank(config)
        path = attempts / str(attempt) / f"rank-{rank}.json"
        with disk_full_as_user_error(path):
            write_json(path, asdict(record))
        torch.set_num_threads(config.threads)
        memory = os.environ.get(MEMORY)
        node = ray.get_runtime_context().get_node_id()
        train(build(config, node, Path(memory) if memory else None))


@contextmanager
def kept_errors() -> Iterator[None]:
    """Around all that a rank does: an error goes into its log, and on with its time and place."""
    try:
        yield
    except Exception as error:
        moment = time.time()
        # The log may lie on the full disk that is the error.
        with suppress(OSError):
            traceback.print_exception(error)
        raise RankError(as_sent(error), moment, host_name()) from error


def as_sent(error: Exception) -> Exception:
    """An error that can go to the controller: its text alone where Ray cannot carry the exception itself."""
    from ray import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    # Whatever a class of the user's raises when it is taken apart or put together.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def agree_on_attempt(attempts: Path) -> int:
    """Number of this attempt, the same on all ranks; rank 0 makes its folder.

    It goes through the store by which the ranks found each other, as a collective operation would start NCCL, whose
    first words are to be in the log already.
    """
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 0:
        store.set(ATTEMPT, str(begin_attempt(attempts)))
    return int(store.get(ATTEMPT))


@dataclass(frozen=True, slots=True)
class RankRecord:
    """Where a rank runs. uncorrected: memory errors of its GPU at the start of the attempt.

    nccl_cards: those that NCCL may use for it, as its environment names them. problems: what NVML had against the GPUs
    of its node then.
    """

    host: str
    process: int
    device: str
    cpus: str
    uuid: str | None = None
    pci: str | None = None
    numa: int | None = None
    nics: tuple[str, ...] = ()
    nccl_cards: str | None = None
    uncorrected: int | None = None
    problems: tuple[str, ...] = ()


def describe_rank(config: WorkerConfig) -> RankRecord:
    """Bind this process to the CPUs and the network card beside its GPU where the profile says so; where it runs now.

    It must come before the first collective operation, with which NCCL reads its environment.
    """
    allowed = frozenset(os.sched_getaffinity(0))
    if config.device == "cpu":
        return RankRecord(host_name(), os.getpid(), "cpu", as_ranges(allowed))
    device = torch.device("cuda", torch.cuda.current_device())
    gpus = readable_gpus()
    gpu = own_gpu(gpus, str(torch.cuda.get_device_properties(device).uuid))
    if gpu is None:
        return RankRecord(host_name(), os.getpid(), str(device), as_ranges(allowed), problems=known_problems(gpus))
    place = place_of(gpu.pci)
    if config.binding == "numa":
        allowed = cpus_for_rank(place.cpus, allowed, on_first_node=os.environ.get(NODE, "0") == "0")
        bind_process(allowed)
    if config.nic_binding == "nearest":
        use_card(own_card(gpu.pci), os.environ)
    return RankRecord(
        host_name(), os.getpid(), str(device), as_ranges(allowed), gpu.uuid, gpu.pci, place.numa, place.nics,
        os.environ.get(CARDS_OF_NCCL), gpu.uncorrected, known_problems(gpus),
    )  # fmt: skip


def readable_gpus() -> list[GpuState]:
    """The GPUs of this machine; none where NVML does not answer, which is said."""
    try:
        return read_gpus()
    except NvmlError as error:
        print(f"this rank is bound to no CPUs, and its GPU is not watched: {error}", flush=True)  # noqa: T201 - its log
        return []


def own_gpu(gpus: Sequence[GpuState], uuid: str) -> GpuState | None:
    """By torch's uuid, which lacks NVML's prefix; None where NVML does not know it."""
    return next((gpu for gpu in gpus if gpu.uuid.removeprefix("GPU-") == uuid.removeprefix("GPU-")), None)
