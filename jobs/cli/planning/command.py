"""``wavetrain plan``: buckets, padding and steps of a job, or of a preset before there is any data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from channels.errors import UserError
from channels.files import is_folder
from jobs.cli.options import ClusterOption
from jobs.cli.planning.of_preset import DEFAULT_BATCH, PresetOptions, plan_preset
from orchestrator.report.plan import describe_plan
from orchestrator.report.plan_figures import draw_plan
from orchestrator.report.plan_table import plan_table
from orchestrator.view.console import plain_console
from samplers.choices import Method, Pack, Strategy

if TYPE_CHECKING:
    from orchestrator.control.probe import Fit


DEFAULTS = {field.name: field.default for field in fields(PresetOptions)} | {"batch": DEFAULT_BATCH}


def _preset(name: str, help_text: str, **limits: Any) -> Any:
    """An option of --preset, whose default the help names: a job spec must not be given it at all."""
    return typer.Option(help=f"{help_text.rstrip('.')} (default {DEFAULTS[name]}).", **limits)


def plan(
    spec: Annotated[Path | None, typer.Argument(help="Job spec whose store is planned; or give --preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Catalogue: demo, hetercsi, motivation or wimamba.")] = None,
    sets: Annotated[str | None, typer.Option(help="First N pre-training sets, or names: P01,P05.")] = None,
    samples: Annotated[int | None, _preset("samples", "Training samples of each set.", min=1)] = None,
    batch: Annotated[int | None, _preset("batch", "Samples of a slice over all ranks.", min=1)] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Token budget of a slice, in place of batch.")] = None,
    buckets: Annotated[int | None, _preset("buckets", "At most so many buckets.", min=1)] = None,
    method: Annotated[Method | None, _preset("method", "How boundaries are found.")] = None,
    strategy: Annotated[Strategy | None, _preset("strategy", "What trains together.")] = None,
    pack: Annotated[Pack | None, _preset("pack", "Strategy packed: samples of a bucket or of all sets.")] = None,
    min_sources: Annotated[int | None, _preset("min_sources", "Sets in every bucket, at least.", min=1)] = None,
    min_entropy: Annotated[
        float | None, _preset("min_entropy", "Source entropy of every bucket in bits, at least.", min=0)
    ] = None,
    partitions: Annotated[
        int | None, _preset("partitions", "Canonical partitions: multiples of the ranks.", min=1)
    ] = None,
    epochs: Annotated[int | None, _preset("epochs", "Epochs of the run.", min=1)] = None,
    seed: Annotated[int | None, _preset("seed", "Seed of the schedule.", min=0)] = None,
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
    for_preset = _given(
        sets=sets, samples=samples, batch=batch, batch_tokens=batch_tokens, buckets=buckets, method=method,
        strategy=strategy, pack=pack, min_sources=min_sources, min_entropy=min_entropy, partitions=partitions,
        epochs=epochs, seed=seed,
    )  # fmt: skip
    for_job = _given(overrides=tuple(override or ()), probe=probe, memory_gb=memory_gb, cluster=cluster)
    if picture is not None:
        _check_picture(picture)
    ranks, fits = 1, list["Fit"]()
    if spec is not None:
        _refuse(for_preset, "it is for --preset", "a job spec has its own: e.g. --set batching.buckets=8")
        if memory_gb is not None and not probe:
            raise UserError("it is the memory for --probe", where="--memory-gb", mend="add --probe or leave it out")
        # A job's plan needs its model, and that needs torch.
        from jobs.cli.planning.of_job import JobOptions, plan_job

        schedule, ranks, fits = plan_job(JobOptions(spec, **for_job))
    else:
        _refuse(for_job, "it is for a job spec", "leave it out, or give a spec in place of --preset")
        schedule = plan_preset(PresetOptions(str(preset), **for_preset))
    if picture is not None:
        draw_plan(schedule.plan, schedule.catalogue, picture)
    _print(describe_plan(schedule.catalogue, schedule.plan, schedule, ranks), fits, as_json)


def _given(**options: Any) -> dict[str, Any]:
    """Those that the command line holds."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


def _refuse(options: Mapping[str, Any], what: str, mend: str) -> None:
    for name in options:
        flag = "set" if name == "overrides" else name.replace("_", "-")
        raise UserError(what, where=f"--{flag}", mend=mend)


def _print(description: dict[str, Any], fits: "Sequence[Fit]", as_json: bool) -> None:
    if fits:
        description["micro_batches"] = [asdict(fit) for fit in fits]
    if as_json:
        typer.echo(json.dumps(description, indent=1))
        return
    plain_console(200).print(plan_table(description))
    for fit in fits:
        bound = "memory" if fit.limited else "the slice of a rank"
        typer.echo(f"bucket {fit.bucket} ({fit.length} tokens): micro-batch {fit.micro_batch}, bounded by {bound}")
    if fits:
        typer.echo(f"batching.micro_batch: {[fit.micro_batch for fit in fits]}")


def _check_picture(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"{path.name!r} is no PNG", where="--picture", mend="give it the ending .png")
    if not is_folder(path.parent):
        raise UserError("no such folder", where=f"--picture {path.parent}", mend="make it first")
