"""``wavetrain train``: start or resume a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from channels.errors import UserError
from jobs.port_window import answers
from jobs.ray_jobs import adapt
from orchestrator.cluster import load_profile
from orchestrator.config import load_job

if TYPE_CHECKING:
    from orchestrator.controller import RunOutcome

SpecArgument = Annotated[Path, typer.Argument(help="Job spec (YAML), e.g. jobs/demo.yaml.", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=c (repeatable).")]
ClusterOption = Annotated[str | None, typer.Option(help="Profile of the cluster file (its default otherwise).")]
ClusterFileOption = Annotated[Path | None, typer.Option(help="Cluster file; ./cluster.yaml otherwise.")]


def train(
    spec: SpecArgument,
    override: SetOption = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Train a job to its end: plan, Ray and DeepSpeed workers, MLflow, zero-shot table. Again: resume."""
    job = load_job(spec, override or ())
    profile = adapt(load_profile(cluster_file, cluster), job)
    if profile.launcher == "slurm":
        mend = "wavetrain submit SPEC --cluster NAME"
        raise UserError("a Slurm profile cannot train in this process", where="--cluster", mend=mend)
    if profile.ray_address is not None:
        check_answers(profile.ray_address)
    from orchestrator.controller import run_job
    from orchestrator.live import LiveView

    outcome = run_job(job, profile, LiveView(title=job.name, every_s=job.tracking.print_every_s))
    raise typer.Exit(report(outcome))


def check_answers(address: str) -> None:
    """Something listens at the address of a Ray head (Ray itself would try for a minute).

    Raises:
        UserError: nothing does, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit() and answers(host, int(port))):
        mend = "give HOST:PORT of a running Ray head, e.g. 10.0.0.1:6379"
        raise UserError(f"Ray at {address} does not answer", where="cluster.yaml: ray_address", mend=mend)


def report(outcome: "RunOutcome") -> int:
    """Print how a run ended and what to do next; its exit code."""
    from rich.console import Console

    from orchestrator.results import to_tables

    console = Console()
    name = outcome.directory.path.name
    if outcome.scores:
        console.print(*to_tables(outcome.scores, f"zero-shot results of {name}"), sep="\n")
    if outcome.cause:
        console.print(f"{outcome.status}: {outcome.cause}", markup=False, highlight=False, soft_wrap=True)
    if outcome.status == "FINISHED":
        console.print(f"tables, weights and events: {outcome.directory.path}", highlight=False, soft_wrap=True)
        console.print("look at it in MLflow:        wavetrain ui", highlight=False)
    if outcome.status == "KILLED":
        return 128 + (outcome.signal or 2)
    return 0 if outcome.status == "FINISHED" else 1
