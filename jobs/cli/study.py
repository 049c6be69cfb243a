"""``wavetrain study``: an ablation of the HeterCSI paper as a sweep, and its table beside the published one."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from channels.errors import UserError
from jobs.cli.downstream.study import study_downstream
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.studies.children import ChildFailedError, is_finished
from jobs.studies.downstream.spec import NAME as FIG3_WIMAMBA
from jobs.studies.spec import Child, Scale, Study, StudyName, known_scales, make_study
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.yaml_files import validate


def study(
    what: Annotated[str, typer.Argument(help="table3, fig4, fig1c or fig3-wimamba.", show_default=False)],
    scale: Annotated[str, typer.Option(help="small (minutes on two cores), medium or published.")] = "small",
    samples: Annotated[int | None, typer.Option(help="Samples of a set, in place of the scale's.")] = None,
    model: Annotated[str | None, typer.Option(help="tiny, base or published, in place of the scale's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a run, in place of the scale's.")] = None,
    sets: Annotated[str | None, typer.Option(help="table3: numbers of sets that are trained, e.g. 8,40.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep (default: e.g. table3-small).")] = None,
    stores: Annotated[Path, typer.Option(help="Folder for the channels that are made.")] = Path("data"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of channels and runs.")] = 42,
    source: Annotated[
        list[Path] | None, typer.Option(help="fig3-wimamba: labelled channels to import (repeatable).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Run an ablation of the paper at a scale and write its table; again: goes on with what is not finished."""
    if what == FIG3_WIMAMBA:
        study_downstream(
            name or f"{what}-{scale}", scale, samples, epochs, source or [], stores, seed, cluster, cluster_file,
            dry_run=dry_run,
        )  # fmt: skip
        return
    kind = _kind(what)
    changes = {
        "samples": samples,
        "model": model,
        "epochs": epochs,
        "gradient_epochs": epochs,
        "table3_sets": _numbers(sets),
    }
    chosen = _scale(scale, {key: value for key, value in changes.items() if value is not None})
    planned = make_study(kind, name or f"{kind}-{scale}", chosen, stores, seed)
    profile = load_profile(cluster_file, cluster)
    if profile.launcher == "slurm":
        mend = "use a local or Ray profile; single jobs: wavetrain submit SPEC --sweep"
        raise UserError("a study runs its jobs one after the other from this process", where="--cluster", mend=mend)
    waiting = [child for child in planned.children if not is_finished(child, profile.storage.runs)]
    typer.echo(_plan_text(planned, waiting))
    if dry_run:
        return
    options = [f"--{key}={value}" for key, value in (("cluster", cluster), ("cluster-file", cluster_file)) if value]
    # The tables need torch and matplotlib.
    from jobs.studies.run import run_study

    try:
        files = run_study(planned, waiting, profile, options, lambda line: typer.echo(line, err=True))
    except ChildFailedError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.code) from None
    typer.echo(next(path for path in files if path.suffix == ".md").read_text())
    typer.echo(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")


def _kind(what: str) -> StudyName:
    known: dict[str, StudyName] = {kind: kind for kind in get_args(StudyName)}
    if what not in known:
        raise UserError(f"no study {what!r}", where="study", mend=f"there are {', '.join((*known, FIG3_WIMAMBA))}")
    return known[what]


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    allowed = range(1, 41)
    if not all(part.strip().isdecimal() and int(part) in allowed for part in parts):
        raise UserError(f"{text!r} are no numbers of sets", where="--sets", mend="e.g. --sets 8,40")
    return tuple(int(part) for part in parts)


def _scale(name: str, changes: dict[str, object]) -> Scale:
    scales = known_scales()
    if name not in scales:
        raise UserError(f"no scale {name!r}", where="--scale", mend=f"there are {', '.join(scales)}")
    return validate(Scale, {**scales[name].model_dump(), **changes}, f"--scale {name}")


def _plan_text(planned: Study, waiting: list[Child]) -> str:
    lines = [
        f"study {planned.name}: {planned.description}",
        f"channels: {len(planned.preset.pretrain)} + {len(planned.preset.zeroshot)} sets in {planned.store}",
    ]
    if planned.kind == "fig1c":
        lines.append(f"{planned.scale.gradient_epochs} epochs in this process, no further runs")
    else:
        lines.append(f"{len(planned.children)} runs, {len(waiting)} of them to be made:")
        lines += [f"  {child.job.name}" for child in waiting]
    return "\n".join(lines)
