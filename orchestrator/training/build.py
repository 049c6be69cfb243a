"""Makes what one rank of an attempt trains with, from the run's folder.

:func:`open_job` needs no other rank. :func:`build` is collective: who shares a node, DeepSpeed's groups, and what
rank 0 reads of the run's adjustments are agreed on in that order.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch.distributed as dist

from models.interface import ModelSpec
from models.registry import make_spec
from orchestrator.data.global_steps import Sharing
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.run.adjustments import Adjustments, micro_batches, read_adjustments
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import begun_spec, load_initial
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.shard_cache.placement import (
    NodeGroup,
    Placement,
    gather_node_group,
    make_placement,
    partitions_within_nodes,
)
from orchestrator.spec.job import JobSpec
from orchestrator.training.collectives import from_rank_zero, gather_rows
from orchestrator.training.engine import TrainingEngine
from orchestrator.training.loader import StepLoader
from orchestrator.training.mfu import device_peak
from samplers.batches import ScheduledBatches
from samplers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class JobParts:
    """What a job says without any other rank: model, data and who trains on what, when."""

    job: JobSpec
    spec: ModelSpec
    data: TrainingData
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class Parts:
    """What one rank of an attempt trains with."""

    directory: RunDirectory
    job: JobSpec
    spec: ModelSpec
    data: TrainingData
    batches: ScheduledBatches
    placement: Placement
    engine: TrainingEngine
    adjustments: Adjustments
    peak_flops: float | None
    """Operations/s of all devices together; None: unknown."""
    threads: int = 1
    """Cores of this rank: one is the training's, the others prepare batches."""
    first_steps_s: float = 900.0
    """Patience of the watchdog until step times are known."""
    memory: Path | None = None
    """Folder in the machine's memory for the newest states."""

    @property
    def schedule(self) -> Schedule:
        """Of the whole run, over all ranks."""
        return self.batches.schedule

    def loader(self) -> StepLoader:
        """This rank's batches from the cursor on. Iterating over them is collective."""
        job = self.job
        sizes = micro_batches(job.batching.micro_batch, self.adjustments.micro_batch, len(self.schedule.plan.buckets))
        return StepLoader(
            self.data,
            self.batches,
            self.placement,
            micro_batch=sizes,
            threads=job.train.loader_threads or max(self.threads - 1, 1),
            prefetch=job.train.prefetch,
            device=self.engine.device,
            sharing=Sharing(self.batches.rank, self.batches.world, partial(gather_rows, device=self.engine.device)),
        )


def open_job(job: JobSpec) -> JobParts:
    """The parts of a job that are the same on every rank.

    Raises:
        UserError: the store, the plan or the model do not fit the job.
    """
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(
        job.data, spec, job.seed, packed=job.batching.packed, loss_weighting=job.train.loss_weighting
    )
    return JobParts(job, spec, data, make_schedule(job, catalogue, data.flops))


def build(config: WorkerConfig, node: str | None = None, memory: Path | None = None) -> Parts:
    """All parts of this rank (collective). node: Ray's id of the rank's node, needed where shards are copied.

    memory: folder in this machine's memory that the ranks there share; None: none.

    Raises:
        UserError: the store, the plan, the model, its first weights, the device or the cache do not fit the job.
    """
    directory = RunDirectory(config.run)
    parts = open_job(directory.read_spec())
    job, world = parts.job, dist.get_world_size()
    parts.spec.check(config.device)
    group = None if job.data.placement == "shared" or node is None else gather_node_group(node)
    batches = ScheduledBatches(_schedule_on(parts, group), dist.get_rank(), world)
    placement = _place(parts, batches, config, group)
    network = parts.spec.build(job.seed)
    load_initial(directory, job, network)
    engine = TrainingEngine(
        network,
        job.train,
        device=config.device,
        tasks=len(parts.spec.tasks),
        packed=parts.data.packed,
    )
    peak = device_peak(engine.device.type, job.train, config.peak_flops)
    return Parts(
        directory=directory,
        job=job,
        spec=begun_spec(job, directory.initial),
        data=parts.data,
        batches=batches,
        placement=placement,
        engine=engine,
        # A file server may still hide a new file from another node than that of rank 0.
        adjustments=from_rank_zero(lambda: read_adjustments(directory.adjustments)),
        peak_flops=None if peak is None else peak * world,
        threads=config.threads,
        first_steps_s=config.first_steps_s,
        memory=memory if job.checkpoint.memory else None,
    )


def _schedule_on(parts: JobParts, group: NodeGroup | None) -> Schedule:
    """The schedule of these nodes: where each holds its partitions' shards only, samples stay within a node."""
    if parts.job.data.placement != "partition" or group is None:
        return parts.schedule
    return replace(parts.schedule, within=partitions_within_nodes(group.nodes, parts.schedule.partitions))


def _place(parts: JobParts, batches: ScheduledBatches, config: WorkerConfig, group: NodeGroup | None) -> Placement:
    section = parts.job.data
    return make_placement(
        section.placement,
        parts.data.store,
        batches.schedule,
        parts.data.origins,
        rank=batches.rank,
        world=batches.world,
        group=group,
        cache=config.cache,
        capacity=section.cache_bytes,
        run=parts.job.name,
    )
