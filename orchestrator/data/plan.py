"""From a job to its plan and schedule: the only place that turns spec fields into sampler arguments."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from orchestrator.spec.job import JobSpec
from samplers.batch_size import Cost
from samplers.catalogue import Catalogue
from samplers.dealing import whole_costs
from samplers.plan import Plan, make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints


def make_job_plan(job: JobSpec, catalogue: Catalogue, flops: Iterable[float]) -> Plan:
    """Buckets and batch sizes of a job; ``flops``: of one sample of each source.

    Raises:
        UserError: the constraints cannot be met, or a bucket is smaller than a batch.
    """
    batching = job.batching
    fixed = batching.batch_tokens is None and batching.batch_flops is None
    by_flops = Cost.from_flops(zip((source.length for source in catalogue), flops, strict=True))
    return make_plan(
        catalogue,
        strategy=batching.strategy,
        method=batching.method,
        pack=batching.pack,
        buckets=batching.buckets,
        batch=batching.global_batch // batching.slices if fixed else None,
        batch_tokens=batching.batch_tokens,
        batch_flops=batching.batch_flops,
        partitions=batching.partitions,
        cost=by_flops if batching.cost == "flops" else Cost(),
        flops=by_flops,
        constraints=Constraints(min_sources=batching.min_sources, min_entropy=batching.min_entropy or 0.0),
    )


def make_schedule(job: JobSpec, catalogue: Catalogue, flops: Sequence[float] | NDArray[np.float64]) -> Schedule:
    """The schedule of a whole run; ``flops``: of one sample of each source.

    Raises:
        UserError: as :func:`make_job_plan`, and for micro-batches that are not one number a bucket.
    """
    plan = make_job_plan(job, catalogue, flops)
    sizes = job.batching.micro_batch
    if isinstance(sizes, tuple) and len(sizes) != len(plan.buckets):
        raise UserError(
            f"{len(sizes)} micro-batches for {len(plan.buckets)} buckets",
            where="batching.micro_batch",
            mend="give one number, or one a bucket",
        )
    return Schedule(
        catalogue=catalogue,
        plan=plan,
        seed=job.seed,
        partitions=job.batching.partitions,
        epochs=job.train.epochs,
        slices=job.batching.slices,
        mix=job.batching.mix,
        tails=job.batching.tails,
        shuffle=job.batching.shuffle,
        costs=whole_costs(flops) if job.batching.balance == "cost" else None,
    )
