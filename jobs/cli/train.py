"""``wavetrain train``: start or resume a run."""

import typer

from channels.errors import UserError
from jobs.cli.options import ClusterFileOption, ClusterOption, SetOption, SpecArgument
from jobs.ray_cluster.inside_job import adapt, record_own_job
from jobs.ray_cluster.jobs import check_answers
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.job import load_job


def train(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Train a job to its end: plan, Ray and DeepSpeed workers, MLflow, zero-shot table. Again: resume."""
    job = load_job(spec, override or ())
    profile = adapt(load_profile(cluster_file, cluster))
    if profile.launcher == "slurm":
        mend = "wavetrain submit SPEC --cluster NAME"
        raise UserError("a Slurm profile cannot train in this process", where="--cluster", mend=mend)
    if profile.ray_address is not None:
        check_answers(profile.ray_address)
    # The controller needs torch.
    from jobs.launch.outcome import print_outcome
    from orchestrator.control.controller import run_job
    from orchestrator.view.live import LiveView

    view = LiveView(title=job.name, every_s=job.tracking.print_every_s)
    directory = RunDirectory(profile.storage.runs / job.name)
    outcome = run_job(job, profile, view, on_start=lambda: record_own_job(directory, profile))
    raise typer.Exit(print_outcome(outcome))
