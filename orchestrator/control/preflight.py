"""What can be known to fail before anything is started or written."""

import os
from pathlib import Path

from channels.errors import UserError
from channels.files import parse_json
from channels.store import ChannelStore
from channels.verify import find_fault
from models.interface import ModelSpec
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec
from orchestrator.spec.train import Precision
from samplers.catalogue import Catalogue

CHECKSUM_BYTES = 2**31
"""Stores up to this size are compared with their checksums before a run."""


def check_resources(job: JobSpec, profile: Profile) -> None:
    """Enough CPUs (and a GPU where asked for) on this machine where Ray is to be embedded.

    Raises:
        UserError: too many workers, or no GPU.
    """
    if profile.launcher != "local" or profile.ray_address is not None:
        return
    cpus = len(os.sched_getaffinity(0))
    needed = job.scale.least * profile.cpus_per_worker
    if needed > cpus:
        raise UserError(
            f"{job.scale.least} workers x {profile.cpus_per_worker} CPUs need {needed} CPUs, here are {cpus}",
            where="scale.workers",
            mend="ask for fewer workers, or fewer cpus_per_worker in the cluster profile",
        )
    if profile.device == "cuda":
        from orchestrator.monitoring.whole_gpus import count_devices

        found = count_devices()
        if found.for_ranks(job.scale.least) < job.scale.least:
            raise UserError(
                f"the profile asks for {job.scale.least} GPUs, here are {found}",
                where="cluster profile: device",
                mend="use a profile with device: cpu (--cluster laptop)",
            )


def check_model(spec: ModelSpec, profile: Profile, precision: Precision) -> None:
    """The model bears the precision, and what it computes with is there, where this machine is the one that trains.

    Raises:
        UserError: the model cannot be trained so, or cannot compute on the profile's device.
    """
    if spec.keeps_float32 and precision == "bf16_pure":
        raise UserError(
            f"{spec.name} has weights that bfloat16 spoils", where="train.precision: bf16_pure", mend="take bf16"
        )
    if profile.launcher == "local" and profile.ray_address is None:
        spec.check(profile.device)


def check_batches(job: JobSpec, catalogue: Catalogue) -> None:
    """The world size divides the partitions, and there is at least one global batch of samples.

    Raises:
        UserError: otherwise.
    """
    batching = job.batching
    if batching.partitions % job.scale.most:
        near = [n for n in range(1, batching.partitions + 1) if batching.partitions % n == 0]
        raise UserError(
            f"{job.scale.most} workers do not divide {batching.partitions} partitions",
            where="scale.workers",
            mend=f"take one of {', '.join(map(str, near))}, or change batching.partitions",
        )
    samples = sum(source.count for source in catalogue.sources)
    if samples < batching.global_batch:
        raise UserError(
            f"global batch {batching.global_batch} is larger than the {samples} training samples",
            where="batching.global_batch",
            mend="make it smaller or add samples",
        )


def check_store(store: ChannelStore) -> None:
    """Every shard is there and has its size; of a store that is read in seconds the checksums are compared too.

    Raises:
        UserError: a missing, truncated or altered shard, named.
    """
    shards = [shard for entry in store.sets.values() for split in entry.splits.values() for shard in split.shards]
    checksums = sum(shard.bytes for shard in shards) <= CHECKSUM_BYTES
    for shard in shards:
        fault = find_fault(store.path, shard, checksum=checksums)
        if fault is not None:
            mend = "make or import the set again; wavetrain channels verify lists all damage"
            raise UserError(fault.what, where=str(store.path / fault.file), mend=mend)


def check_plan(written: Path, fingerprint: str) -> None:
    """A run that is under way goes on with the plan that it began with. written: its ``plan.json``.

    Raises:
        UserError: another version of this code makes another plan of the same job.
    """
    found = parse_json(written.read_bytes()).get("fingerprint", fingerprint) if written.exists() else fingerprint
    if found != fingerprint:
        raise UserError(
            "the run was begun with another plan than this version of Wavetrain makes of the job",
            where=str(written),
            mend="go on with the version that began it, or choose another run name",
        )


def check_run_folder(runs: Path) -> None:
    """The folder of the runs can be made and written.

    Raises:
        UserError: it cannot.
    """
    nearest = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot be made ({nearest} is a file)", where=str(runs), mend="change storage.runs")
    if not os.access(nearest, os.W_OK):
        raise UserError("cannot be written", where=str(nearest), mend="change storage.runs in the cluster profile")
