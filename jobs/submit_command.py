"""``wavetrain submit``: plan, check, snapshot the code and hand the job to a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from channels.errors import UserError
from jobs.train_command import ClusterFileOption, ClusterOption, SetOption, SpecArgument
from orchestrator.cluster import load_profile
from orchestrator.config import load_job

if TYPE_CHECKING:
    from jobs.slurm import Submission


def submit(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, script and Ray bring-up; do nothing.")
    ] = False,
) -> None:
    """Submit a job to the profile's Slurm: code snapshot, batch script, Ray inside the allocation. Again: resume."""
    job = load_job(spec, override or ())
    profile = load_profile(cluster_file, cluster)
    if profile.launcher != "slurm":
        mend = "name a profile with launcher: slurm, or start it here with wavetrain train"
        raise UserError(f"the profile's launcher is {profile.launcher}", where="--cluster", mend=mend)
    from jobs.slurm import prepare_submission, render
    from jobs.slurm import submit as submit_to_slurm
    from orchestrator.controller import prepare

    submission = prepare_submission(job, profile)
    prepared = prepare(job, submission.profile)
    if dry_run:
        from rich.console import Console

        from orchestrator.plan_report import describe_plan, plan_table

        plan = prepared.schedule.plan
        Console(width=200).print(plan_table(describe_plan(prepared.catalogue, plan, prepared.schedule)))
        typer.echo(f"\n--- batch script, in {submission.launch.submitted}\n{render(submission)}")
        typer.echo(f"--- Ray on the nodes of the job\n{describe_bring_up(submission)}")
        return
    job_id = submit_to_slurm(submission)
    folder, name = submission.launch.run.path, job.name
    typer.echo(f"job {job_id} {'resumes' if prepared.resumes else 'will train'} run {name} in {folder}")
    typer.echo(f"next: wavetrain status {name} | wavetrain logs {name} --follow | wavetrain cancel {name}")


def describe_bring_up(submission: "Submission") -> str:
    """What the tasks of the job will do, in order."""
    from jobs.port_window import FIRST, WIDTH, WINDOWS
    from jobs.ray_node import share_of

    slurm, workers = submission.slurm, submission.job.scale.workers
    share = share_of(submission.profile, workers, slurm.nodes)
    meeting = submission.launch.path / "attempts" / "JOB-RESTART"
    interface, last = submission.profile.network.interface, FIRST + WIDTH * WINDOWS - 1
    size = f"--num-cpus={share.cpus} --num-gpus={share.gpus}"
    lines = [
        f"ports: {WIDTH} consecutive ones of {FIRST}-{last}, chosen by job id, probed on the address of {interface}",
        f"node 0: writes {meeting}/token (mode 0600), then",
        f"  ray start --head --block --node-ip-address=ADDRESS --port=PORT {size} --include-dashboard=false",
    ]
    if slurm.nodes > 1:
        lines += [
            f"nodes 1 to {slurm.nodes - 1}: wait for {meeting}/head.json, then",
            f"  ray start --block --address=ADDRESS:PORT {size}",
        ]
    lines += [
        f"node 0, when all {slurm.nodes} are ready (in at most {slurm.bootstrap_timeout_s} s): {workers} ranks",
        f"signal {slurm.signal_lead_s} s before the time limit: checkpoint, stop, scontrol requeue "
        f"(at most {slurm.max_requeues} times)",
    ]
    return "\n".join(lines)
