"""``wavetrain train``: start or resume a run."""

import os
import threading
from typing import Annotated

import typer

from channels.errors import UserError
from jobs.cli.channels import make_missing
from jobs.cli.options import ClusterFileOption, ClusterOption, RootOption, SetOption, SpecArgument, profile_options
from jobs.ray_cluster.inside_job import adapt, check_store_is_here, enter, record_own_job
from jobs.ray_cluster.jobs import check_answers
from jobs.ray_cluster.shell import of_this_shell_alone
from orchestrator.control.ray_train.session import session_ahead
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.job import load_job


def train(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    root: RootOption = None,
    make_data: Annotated[
        bool, typer.Option("--make-data", help="First make the sets of data.preset that the store lacks.")
    ] = False,
) -> None:
    """Train a job to its end: plan, Ray and DeepSpeed workers, MLflow, zero-shot table. Again: resume."""
    spec, cluster_file = enter(root, spec, cluster_file)
    job = load_job(spec, override or ())
    if root is None:
        check_store_is_here(job)
    if make_data:
        make_missing(job.data)
    profile = adapt(load_profile(cluster_file, cluster), rooted=root is not None)
    if profile.launcher == "slurm":
        mend = "wavetrain submit SPEC --cluster NAME"
        raise UserError("a Slurm profile cannot train in this process", where="--cluster", mend=mend)
    if profile.ray_address is not None:
        check_answers(profile.ray_address)
        if warning := of_this_shell_alone(profile.network, os.environ):
            typer.echo(warning, err=True)
    with session_ahead(profile) as session:
        # The controller needs torch; meanwhile the session's own process imports what the workers need.
        from jobs.launch.outcome import failure_noticed, notify_end, print_outcome
        from orchestrator.control.controller import run_job
        from orchestrator.control.goodput_book import process_began_s
        from orchestrator.view.live import LiveView

        view = LiveView(title=job.name, every_s=job.tracking.print_every_s)
        directory = RunDirectory(profile.storage.runs / job.name)
        begun = threading.Event()

        def begin() -> None:
            begun.set()
            record_own_job(directory, profile)

        with failure_noticed(profile, directory, begun.is_set):
            outcome = run_job(job, profile, view, on_start=begin, session=session, began_s=process_began_s())
    code = print_outcome(outcome, profile_options(cluster, cluster_file))
    notify_end(outcome, profile)
    raise typer.Exit(code)
