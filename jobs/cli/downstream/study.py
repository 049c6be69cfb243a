"""``wavetrain study fig3-wimamba``: pre-training of three encoders, then downstream tasks on labelled channels."""

from collections.abc import Sequence
from pathlib import Path

import typer

from channels.errors import UserError
from jobs.studies.children import ChildFailedError, waiting_children
from jobs.studies.downstream.spec import DownstreamScale, DownstreamStudy, downstream_scales, make_downstream_study
from jobs.studies.spec import Child
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.yaml_files import validate


def study_downstream(
    name: str,
    scale: str,
    samples: int | None,
    epochs: int | None,
    sources: Sequence[Path],
    stores: Path,
    seed: int,
    cluster: str | None,
    cluster_file: Path | None,
    *,
    dry_run: bool,
) -> None:
    """Plan the study, say what there is to do, and do it.

    Raises:
        UserError: an unknown scale, no labelled channels, or what a pre-training or comparison refuses.
    """
    profile = load_profile(cluster_file, cluster)
    if profile.launcher == "slurm":
        mend = "use a local or Ray profile; single jobs: wavetrain submit SPEC"
        raise UserError("a study runs its jobs one after the other from this process", where="--cluster", mend=mend)
    study = make_downstream_study(name, chosen_scale(scale, samples, epochs), sources, stores, seed)
    waiting = waiting_children(study.children, profile.storage.runs)
    typer.echo(plan_text(study, waiting))
    if dry_run:
        return
    # They need torch and matplotlib.
    from jobs.studies.downstream.run import run_downstream_study
    from orchestrator.downstream.results.write import MARKDOWN

    options = [f"--{key}={value}" for key, value in (("cluster", cluster), ("cluster-file", cluster_file)) if value]
    try:
        files = run_downstream_study(study, waiting, profile, options, lambda line: typer.echo(line, err=True))
    except ChildFailedError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.code) from None
    for path in (path for path in files if path.name == MARKDOWN):
        typer.echo(path.read_text())
        typer.echo(f"written to {path.parent}")


def chosen_scale(name: str, samples: int | None, epochs: int | None) -> DownstreamScale:
    """A shipped scale, with other numbers where they are given. Raises UserError for an unknown one."""
    scales = downstream_scales()
    if name not in scales:
        raise UserError(f"no scale {name!r}", where="--scale", mend=f"there are {', '.join(scales)}")
    fields = scales[name].model_dump()
    if samples is not None:
        fields["samples"] = samples
    if epochs is not None:
        fields["epochs"] = dict.fromkeys(fields["epochs"], epochs)
    return validate(DownstreamScale, fields, f"--scale {name}")


def plan_text(study: DownstreamStudy, waiting: Sequence[Child]) -> str:
    """What there is to do, in lines."""
    count = len(study.preset.pretrain)
    lines = [
        f"study {study.name}: pre-training on {count} sets of {study.scale.samples} made channels in {study.store}",
        f"{len(study.children)} pre-trainings, {len(waiting)} of them to be made:",
        *(f"  {child.job.name}" for child in waiting),
        f"comparisons on {', '.join(f'{name} ({path})' for name, path in study.sources.items())}: "
        f"patches {', '.join(map(str, study.scale.patches))}, {study.scale.seeds} seeds",
    ]
    return "\n".join(lines)
