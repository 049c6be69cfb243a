"""``wavetrain plan``: buckets, padding and steps of a job, or of a preset before there is any data."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from channels.catalogue import select_sets
from channels.errors import UserError
from channels.presets import load_preset
from jobs.cli.options import ClusterOption
from orchestrator.report.plan import catalogue_of_specs, describe_plan, plan_table
from orchestrator.report.plan_figures import draw_plan
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.job import JobSpec, load_job
from samplers.catalogue import Catalogue
from samplers.choices import Method, Pack, Strategy
from samplers.plan import make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints

if TYPE_CHECKING:
    from orchestrator.control.probe import Fit

DEFAULT_BATCH = 128


def plan(
    spec: Annotated[Path | None, typer.Argument(help="Job spec whose store is planned; or give --preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Catalogue without data: demo, hetercsi or wimamba.")] = None,
    sets: Annotated[str | None, typer.Option(help="First N pre-training sets, or names: P01,P05.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Training samples of each set.")] = 9000,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples of a slice over all ranks.  [default: 128]")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Token budget of a slice, in place of batch.")] = None,
    buckets: Annotated[int, typer.Option(min=1, help="At most so many buckets.")] = 4,
    method: Annotated[Method, typer.Option(help="How boundaries are found.")] = "optimal",
    strategy: Annotated[Strategy, typer.Option(help="What trains together.")] = "bucket",
    pack: Annotated[Pack, typer.Option(help="Strategy packed: samples of a bucket or of all sets.")] = "bucket",
    min_sources: Annotated[int, typer.Option(min=1, help="Sets in every bucket, at least.")] = 1,
    min_entropy: Annotated[float, typer.Option(min=0, help="Source entropy of every bucket in bits, at least.")] = 0.0,
    partitions: Annotated[int, typer.Option(min=1, help="Canonical partitions: multiples of the ranks.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the run.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the schedule.")] = 0,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of the job spec: a.b=c (repeatable).")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Find the largest micro-batch of every bucket that fits.")
    ] = False,
    memory_gb: Annotated[float | None, typer.Option(min=0.01, help="Memory of a rank for --probe on a CPU.")] = None,
    cluster: ClusterOption = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show buckets, sets, padding and steps: of a job spec as `train` will run it, or of a preset without any data."""
    if (spec is None) == (preset is None):
        raise UserError("give either a job spec or --preset", where="plan", mend="e.g. wavetrain plan jobs/demo.yaml")
    fits: list[Fit] = []
    ranks = 1
    if spec is not None:
        job = load_job(spec, override or [])
        catalogue, schedule = _planned_job(job)
        ranks = job.scale.most
        fits = _probed(job, cluster, memory_gb) if probe else []
    else:
        catalogue = catalogue_of_specs(select_sets(load_preset(str(preset)), sets).pretrain, samples)
        made = make_plan(
            catalogue,
            strategy=strategy,
            method=method,
            pack=pack,
            buckets=buckets,
            batch=DEFAULT_BATCH if batch is None and batch_tokens is None else batch,
            batch_tokens=batch_tokens,
            partitions=partitions,
            constraints=Constraints(min_sources, min_entropy),
        )
        schedule = Schedule(catalogue, made, seed, partitions, epochs)
    if picture is not None:
        _check_picture(picture)
        draw_plan(schedule.plan, catalogue, picture)
    description = describe_plan(catalogue, schedule.plan, schedule, ranks)
    if fits:
        description["micro_batches"] = [asdict(fit) for fit in fits]
    if as_json:
        typer.echo(json.dumps(description, indent=1))
        return
    _console().print(plan_table(description))
    for fit in fits:
        bound = "memory" if fit.limited else "the slice of a rank"
        typer.echo(f"bucket {fit.bucket} ({fit.length} tokens): micro-batch {fit.micro_batch}, bounded by {bound}")
    if fits:
        typer.echo(f"batching.micro_batch: {[fit.micro_batch for fit in fits]}")


def _probed(job: JobSpec, cluster: str | None, memory_gb: float | None) -> "list[Fit]":
    from orchestrator.control.probe import probe

    device = load_profile(None, cluster).device
    return probe(job, device, None if memory_gb is None else int(memory_gb * 2**30))


def _planned_job(job: JobSpec) -> tuple[Catalogue, Schedule]:
    """Catalogue and schedule exactly as the controller makes them."""
    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data

    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
    return catalogue, make_schedule(job, catalogue, data.flops)


def _check_picture(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"{path.name!r} is no PNG", where="--picture", mend="give it the ending .png")
    if not path.parent.is_dir():
        raise UserError("no such folder", where=f"--picture {path.parent}", mend="make it first")


def _console() -> Console:
    """A console that folds lines only where there is a terminal to fold them for."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
