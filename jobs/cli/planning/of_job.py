"""The plan of a job as ``train`` will run it, and the micro-batches that fit."""

from dataclasses import dataclass
from pathlib import Path

from jobs.cli.planning.of_preset import announced_store
from models.registry import make_spec
from orchestrator.control.probe import Fit, probe
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import open_training_data
from orchestrator.data.target import fit_to_target
from orchestrator.evaluation.nmse import check_zeroshot_sets
from orchestrator.evaluation.validation import check_validation_sets
from orchestrator.run.initial_weights import check_beginning
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.job import JobSpec, load_job
from samplers.schedule import Schedule


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What ``wavetrain plan SPEC`` may be given. memory_gb: of a rank, for the probe on a CPU; None: what is free."""

    spec: Path
    overrides: tuple[str, ...] = ()
    probe: bool = False
    memory_gb: float | None = None
    cluster: str | None = None


def plan_job(options: JobOptions) -> tuple[Schedule, int, list[Fit]]:
    """The schedule as the controller makes it, the number of ranks, and what fits if the probe is wanted.

    Where no store is there yet, it is the schedule of the preset that the job names.

    Raises:
        UserError: a broken spec, a store or weights to begin with that are not there, sets to score that it has not,
            or a device that not even one sample fits.
    """
    job = load_job(options.spec, options.overrides)
    to_plan = announced_store(job)
    job = fit_to_target(job, to_plan)
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed, store=to_plan)
    check_zeroshot_sets(data.store, job, spec)
    check_validation_sets(data.store, job)
    schedule = make_schedule(job, catalogue, data.flops)
    check_beginning(job, spec, load_profile(None, options.cluster).storage.runs)
    return schedule, job.scale.most, _probe(job, options) if options.probe else []


def _probe(job: JobSpec, options: JobOptions) -> list[Fit]:
    memory_bytes = None if options.memory_gb is None else int(options.memory_gb * 2**30)
    return probe(job, load_profile(None, options.cluster).device, memory_bytes)
