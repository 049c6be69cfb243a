"""``wavetrain submit``: plan, check, snapshot the code and hand the job to a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from channels.errors import UserError
from jobs import ray_jobs, slurm
from jobs.slurm import prepare_submission
from jobs.train_command import ClusterFileOption, ClusterOption, SetOption, SpecArgument
from orchestrator.cluster import Profile, load_profile
from orchestrator.config import load_job

if TYPE_CHECKING:
    from jobs.slurm import Submission
    from orchestrator.controller import Prepared


def submit(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, script and Ray bring-up; do nothing.")
    ] = False,
) -> None:
    """Submit a job to the profile's Slurm or Ray cluster: plan, checks, code snapshot. Again: resume."""
    job = load_job(spec, override or ())
    profile = load_profile(cluster_file, cluster).with_absolute_runs()
    if profile.launcher == "local":
        mend = "name a profile with launcher: slurm or ray, or start it here with wavetrain train"
        raise UserError("the profile's launcher is local", where="--cluster", mend=mend)
    from orchestrator.controller import prepare

    submission = prepare_submission(job, profile) if profile.launcher == "slurm" else None
    prepared = prepare(job, profile)
    if dry_run:
        _print_plan(prepared)
        typer.echo(describe_slurm(submission) if submission else describe_ray(profile))
        return
    job_id = slurm.submit(submission) if submission else ray_jobs.submit(job, profile)
    name, folder = job.name, prepared.directory.path
    typer.echo(f"job {job_id} {'resumes' if prepared.resumes else 'will train'} run {name} in {folder}")
    typer.echo(f"next: wavetrain status {name} | wavetrain logs {name} --follow | wavetrain cancel {name}")


def _print_plan(prepared: "Prepared") -> None:
    from rich.console import Console

    from orchestrator.plan_report import describe_plan, plan_table

    description = describe_plan(prepared.catalogue, prepared.schedule.plan, prepared.schedule)
    Console(width=200).print(plan_table(description))


def describe_ray(profile: Profile) -> str:
    """What a Ray job will do."""
    return f"\nRay job on {profile.ray_dashboard}: python -m jobs.attempt RUN {profile.ray_address}"


def describe_slurm(submission: "Submission") -> str:
    """Batch script and bring-up."""
    script = f"\n--- batch script, in {submission.launch.submitted}\n{slurm.render(submission)}"
    return f"{script}\n--- Ray on the nodes of the job\n{describe_bring_up(submission)}"


def describe_bring_up(submission: "Submission") -> str:
    """What the tasks of the job will do, in order."""
    from jobs.port_window import FIRST, WIDTH, WINDOWS
    from jobs.ray_node import share_of

    wanted, workers = submission.slurm, submission.job.scale.workers
    share = share_of(submission.profile, workers, wanted.nodes)
    meeting = submission.launch.path / "attempts" / "JOB-RESTART"
    interface, last = submission.profile.network.interface, FIRST + WIDTH * WINDOWS - 1
    size = f"--num-cpus={share.cpus} --num-gpus={share.gpus}"
    lines = [
        f"ports: {WIDTH} consecutive ones of {FIRST}-{last}, chosen by job id, probed on the address of {interface}",
        f"node 0: writes {meeting}/token (mode 0600), then",
        f"  ray start --head --block --node-ip-address=ADDRESS --port=PORT {size} --include-dashboard=false",
    ]
    if wanted.nodes > 1:
        lines += [
            f"nodes 1 to {wanted.nodes - 1}: wait for {meeting}/head.json, then",
            f"  ray start --block --address=ADDRESS:PORT {size}",
        ]
    lines += [
        f"node 0, when all {wanted.nodes} are ready (in at most {wanted.bootstrap_timeout_s} s): {workers} ranks",
        f"signal {wanted.signal_lead_s} s before the time limit: checkpoint, stop, scontrol requeue "
        f"(at most {wanted.max_requeues} times)",
    ]
    return "\n".join(lines)
