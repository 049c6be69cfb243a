"""``wavetrain submit``: plan, check, snapshot the code and hand the job to a cluster."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from channels.errors import UserError
from jobs.cli.launchers import make_query
from jobs.cli.options import ClusterFileOption, ClusterOption, HostOption, SetOption, SpecArgument
from jobs.cli.planning.of_preset import announced_store
from jobs.cli.runs import follow_run
from jobs.launch.finished import is_finished
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import Query
from jobs.launch.remote import run_there
from jobs.launch.run_list import find_run
from jobs.launch.run_status import run_status
from jobs.launch.sweep import Sweep, make_parent, mark_child, read_sweep
from jobs.ray_cluster import jobs as ray_jobs
from jobs.ray_cluster import sweep as ray_sweep
from jobs.ray_cluster.shell import of_this_shell_alone
from jobs.slurm.dependency import job_to_wait_for
from jobs.slurm.limits import check_limits, is_answering
from jobs.slurm.submission import Submission, prepare_submission
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile, load_profile, run_folders
from orchestrator.spec.job import JobSpec, load_job
from orchestrator.view.console import plain_console

if TYPE_CHECKING:
    from channels.store import ChannelStore
    from orchestrator.control.prepared import Prepared


def submit(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="Values of a field: a.b=1,2 (repeatable: all combinations).")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Runs of a sweep at a time.")] = 4,
    after: Annotated[
        str | None, typer.Option(metavar="RUN", help="Wait until this run is finished (Slurm only).")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run until it ends (Ctrl-C leaves).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, script and Ray bring-up; do nothing.")
    ] = False,
    host: HostOption = None,
) -> None:
    """Submit a job to the profile's Slurm or Ray cluster: plan, checks, code snapshot. Again: resume."""
    if host is not None:
        raise typer.Exit(run_there(host))
    job = load_job(spec, override or ())
    profile = load_profile(cluster_file, cluster).with_absolute_folders()
    if profile.launcher == "local":
        mend = "name a profile with launcher: slurm or ray, or start it here with wavetrain train"
        raise UserError("the profile's launcher is local", where="--cluster", mend=mend)
    awaited = _awaited(after, profile, cluster, cluster_file)
    if sweep:
        if watch:
            mend = "leave one out; wavetrain status shows all runs"
            raise UserError("--watch follows one run, --sweep submits several", where="submit", mend=mend)
        submit_sweep(read_sweep(spec, override or (), sweep), profile, parallel, awaited, dry_run)
        return
    _submit_one(job, profile, awaited, dry_run)
    if watch and not dry_run:
        raise typer.Exit(follow_run(RunDirectory(profile.storage.runs / job.name)))


def _awaited(after: str | None, profile: Profile, cluster: str | None, cluster_file: Path | None) -> str | None:
    """The job that is to end well before this one starts; None where there is none, or it has."""
    if after is None:
        return None
    if profile.launcher != "slurm":
        mend = "leave it out, or wait: wavetrain status --watch RUN"
        raise UserError("Ray's job server knows no dependencies", where="--after", mend=mend)
    job_id = job_to_wait_for(find_run(after, run_folders(cluster_file, cluster)), make_query())
    typer.echo(f"waits for job {job_id} of {after}" if job_id else f"run {after} is finished: nothing to wait for")
    return job_id


def _submit_one(job: JobSpec, profile: Profile, awaited: str | None, dry_run: bool) -> None:
    from jobs.slurm import executor
    from jobs.slurm.description import describe_submission
    from orchestrator.control.prepare import prepare

    submission = prepare_submission(job, profile, awaited) if profile.launcher == "slurm" else None
    prepared = prepare(job, profile, to_plan=announced_store(job) if dry_run else None)
    if not submission and not dry_run:
        _check_ray(profile)
    if submission:
        _compare(submission, dry_run)
    if dry_run:
        _print_plan(prepared)
        typer.echo(describe_submission(submission) if submission else ray_jobs.describe(profile))
        return
    _check_idle(prepared.directory, make_query())
    job_id = executor.submit(submission) if submission else ray_jobs.submit(job, profile)
    name, folder = job.name, prepared.directory.path
    typer.echo(f"job {job_id} {'resumes' if prepared.resumes else 'will train'} run {name} in {folder}")
    typer.echo(f"next: wavetrain status {name} | wavetrain logs {name} --follow | wavetrain cancel {name}")


def submit_sweep(
    sweep: Sweep, profile: Profile, parallel: int, awaited: str | None = None, dry_run: bool = False
) -> None:
    """Submit the children that are neither finished nor on their way; the same command again submits the failed.

    Raises:
        UserError: a finished run of another job has the name of a child, or what ``prepare`` refuses.
    """
    from jobs.slurm import executor
    from jobs.slurm.description import describe_submission

    query, runs = make_query(), profile.storage.runs
    for child in sweep.children:
        is_finished(child, RunDirectory(runs / child.name), "choose another name (--set name=...)")
    waiting = [child for child in sweep.children if _is_wanted(RunDirectory(runs / child.name), query)]
    _prepare_all(waiting, profile, dry_run)
    submissions = []
    if profile.launcher == "slurm":
        submissions = [prepare_submission(child, profile, awaited) for child in waiting]
    typer.echo(f"sweep {sweep.name}: {len(sweep.children)} runs, {len(waiting)} to submit")
    if submissions:
        _compare(submissions[0], dry_run)
    if dry_run or not waiting:
        typer.echo("\n".join(child.name for child in waiting))
        if submissions:
            typer.echo(describe_submission(submissions[0]))
        return
    if not submissions:
        _check_ray(profile)
    if sweep.children[0].tracking.offline:
        typer.echo("tracking is offline: these runs get no common parent in MLflow", err=True)
    else:
        parent = make_parent(sweep, profile)
        for child in waiting:
            mark_child(RunDirectory(runs / child.name), parent)
    shared = LaunchFolder(RunDirectory(runs / f"{sweep.name}.sweep"))
    if submissions:
        jobs = executor.submit_array(submissions, shared, parallel)
        typer.echo("\n".join(f"job {job_id}: run {child.name}" for job_id, child in zip(jobs, waiting, strict=True)))
    else:
        job_id = ray_sweep.submit(waiting, profile, shared, parallel)
        typer.echo(f"job {job_id} starts them, {parallel} at a time:")
        typer.echo("\n".join(child.name for child in waiting))
    typer.echo(f"next: wavetrain status | wavetrain logs {waiting[0].name} | wavetrain cancel {waiting[0].name}")


def _prepare_all(children: Sequence[JobSpec], profile: Profile, dry_run: bool = False) -> None:
    """Check every child, and a store only once."""
    from orchestrator.control.prepare import prepare

    checked: dict[Path, ChannelStore | None] = {}
    for child in children:
        path = child.data.store
        is_new = path not in checked
        if is_new:
            checked[path] = announced_store(child) if dry_run else None
        prepare(child, profile, check_data=is_new, to_plan=checked[path])


def _compare(submission: Submission, dry_run: bool) -> None:
    """With what the partition gives; a dry run away from the cluster goes on without."""
    if dry_run and not is_answering():
        typer.echo("no Slurm answers here: partition, account and limits are not compared", err=True)
    else:
        check_limits(submission)


def _check_ray(profile: Profile) -> None:
    ray_jobs.connect(profile.ray_dashboard)
    ray_jobs.check_answers(str(profile.ray_address))
    if warning := of_this_shell_alone(profile.network, os.environ):
        typer.echo(warning, err=True)


def _check_idle(directory: RunDirectory, query: Query) -> None:
    found = run_status(directory, query)
    if found.state in ("PENDING", "RUNNING"):
        what = f"job {found.job} is {found.state}" if found.job else "another controller is working on this run"
        raise UserError(what, where=str(directory.path), mend=f"wait for it, or wavetrain cancel {found.name}")


def _is_wanted(directory: RunDirectory, query: Query) -> bool:
    state = run_status(directory, query).state
    is_new = state == "UNKNOWN" and not LaunchFolder(directory).submission.exists()
    return is_new or state in ("FAILED", "KILLED")


def _print_plan(prepared: "Prepared") -> None:
    from orchestrator.report.plan import describe_plan
    from orchestrator.report.plan_table import plan_table

    ranks = prepared.job.scale.most
    description = describe_plan(prepared.catalogue, prepared.schedule.plan, prepared.schedule, ranks)
    plain_console(200).print(plan_table(description))
