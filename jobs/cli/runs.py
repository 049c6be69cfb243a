"""``wavetrain status``, ``logs`` and ``cancel``: runs on this machine, on Ray and under Slurm alike."""

import json
import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from channels.errors import UserError
from jobs.cli.launchers import make_query, query_launcher
from jobs.cli.options import ClusterFileOption, ClusterOption, HostOption, RunArgument
from jobs.launch.folder import LaunchFolder
from jobs.launch.job_state import ENDED
from jobs.launch.rank_output import read_rank
from jobs.launch.remote import run_there
from jobs.launch.run_list import find_run, list_runs, newest_run, text_of
from jobs.launch.run_status import RunStatus, run_status
from jobs.launch.watch import watch, watch_changes
from jobs.ray_cluster import jobs as ray_jobs
from jobs.slurm import state as slurm_state
from orchestrator.run.folder import RunDirectory
from orchestrator.run.progress import clock
from orchestrator.spec.cluster import run_folders
from orchestrator.view.console import plain_console
from orchestrator.view.live import LiveView

FOLLOW_S = 0.5


def status(
    run: Annotated[str | None, typer.Argument(help="Name or folder of a run; all runs otherwise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch a line a change.")] = False,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow one run until it ends (Ctrl-C leaves).")
    ] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    host: HostOption = None,
) -> None:
    """Show state, attempt, step, loss, speed, time left, nodes and reason of one run or of all."""
    if host is not None:
        raise typer.Exit(run_there(host))
    runs = run_folders(cluster_file, cluster)
    if follow:
        directory = find_run(run, runs) if run else newest_run(runs)
        raise typer.Exit(_follow_in_json(directory) if as_json else follow_run(directory))
    directories = [find_run(run, runs)] if run else list_runs(runs)
    query = make_query()
    found = [run_status(directory, query) for directory in directories]
    if as_json:
        typer.echo(json.dumps([_fields(entry) for entry in found], indent=2, allow_nan=False))
    elif not found:
        typer.echo(f"no run in {text_of(runs)}")
    else:
        _print(found)


def logs(
    run: RunArgument,
    node: Annotated[int | None, typer.Option(min=0, help="Only this node of a Slurm job.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="What a rank printed, instead of the nodes.")] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="With --rank: of this attempt; of the newest otherwise.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="At most so many last lines.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    host: HostOption = None,
) -> None:
    """Show what a submitted run printed on its nodes, or what one rank of any run printed."""
    if host is not None:
        raise typer.Exit(run_there(host))
    directory = find_run(run, run_folders(cluster_file, cluster))
    if rank is None and attempt is not None:
        raise UserError("--attempt is for the output of a rank", where="logs", mend="add --rank R")
    read = partial(_node_texts, directory, run, node) if rank is None else partial(read_rank, directory, rank, attempt)
    shown = read()
    typer.echo("\n".join("".join(shown.values()).splitlines()[-lines:]))
    going = follow
    while going:
        # Before the output is read, so that what was printed last is shown too.
        going = run_status(directory, query_launcher).state not in ENDED
        time.sleep(FOLLOW_S)
        texts = read()
        typer.echo("".join(text[len(shown.get(name, "")) :] for name, text in texts.items()), nl=False)
        shown = texts


def cancel(
    run: RunArgument,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a checkpoint.")] = False,
    wait: Annotated[int, typer.Option(min=1, help="Seconds to wait for a checkpoint.")] = 60,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    host: HostOption = None,
) -> None:
    """End a run after a checkpoint: the same command that started it resumes it."""
    if host is not None:
        raise typer.Exit(run_there(host))
    directory = find_run(run, run_folders(cluster_file, cluster))
    before = run_status(directory, query_launcher)
    if before.state in ENDED:
        raise UserError(f"run {run!r} has ended ({before.state})", where="cancel", mend="there is nothing to cancel")
    submission = LaunchFolder(directory).read_submission()
    # A job whose controller has not begun still shows how the attempt before it ended.
    listens = before.state == directory.read_state().get("status") == "RUNNING"
    stopped = not now and listens and _ask_to_stop(directory, wait)
    if not stopped and not submission:
        mend = "press Ctrl-C twice where it runs" if now else "wait longer: --wait SECONDS"
        raise UserError(f"run {run!r} has not stopped", where="cancel", mend=mend)
    if submission.get("launcher") == "slurm":
        slurm_state.run_command(["scancel", str(submission["job_id"])])
    elif submission.get("launcher") == "ray" and not stopped:
        ray_jobs.stop(LaunchFolder(directory))
    typer.echo(f"run {run} is cancelled{' after a checkpoint' if stopped else ''}")


def follow_run(directory: RunDirectory) -> int:
    """Show a run until it ends; 0, or 1 where it failed."""
    ended = watch(directory, query_launcher, LiveView(title=directory.path.name))
    if ended is None:
        typer.echo(f"run {directory.path.name} goes on: wavetrain status --watch {directory.path.name}", err=True)
    return 1 if ended and ended.state == "FAILED" else 0


def _follow_in_json(directory: RunDirectory) -> int:
    """A line of JSON now and at every change, until the run ends; the same codes."""
    state = None
    try:
        for status in watch_changes(directory, query_launcher):
            state = status.state
            typer.echo(json.dumps(_fields(status), allow_nan=False))
    except KeyboardInterrupt:
        return 0
    return 1 if state == "FAILED" else 0


def _fields(status: RunStatus) -> dict[str, Any]:
    """The fields of a status; null in place of numbers that JSON does not have, as a loss that has diverged."""
    given = asdict(status).items()
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in given}


def _node_texts(directory: RunDirectory, run: str, node: int | None) -> dict[str, str]:
    """What nodes have printed so far, by file."""
    submission = LaunchFolder(directory).read_submission()
    if not submission:
        mend = f"wavetrain logs {run} --rank 0 shows a rank; its steps are in {directory.events}"
        raise UserError(f"run {run!r} was not submitted, it printed to its terminal", where="logs", mend=mend)
    if submission["launcher"] == "ray":
        return {"": ray_jobs.logs(submission)}
    which = "*" if node is None else str(node)
    paths = sorted(Path(submission["logs"]).glob(f"{submission['job_id']}_{which}_log.*"))
    return {str(path): path.read_text(errors="replace") for path in paths}


def _ask_to_stop(directory: RunDirectory, wait_s: int) -> bool:
    directory.stop_request.touch()
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if directory.read_state().get("status") in ENDED:
            return True
        time.sleep(FOLLOW_S)
    return False


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print(found: list[RunStatus]) -> None:
    from rich.table import Table

    is_scored = any(entry.scored_step is not None for entry in found)
    columns = ["run", "launcher", "job", "state", "attempt", "step", "loss", "tokens/s", "left", "goodput"]
    is_fullshot = any(entry.fullshot_nmse_db is not None for entry in found)
    scores = ["validation dB", "zero-shot dB", *(["full-shot dB"] if is_fullshot else [])]
    table = Table(*columns, "nodes", "reason", *(scores if is_scored else []))
    for entry in found:
        steps = f"{entry.step}/{entry.total_steps}" if entry.total_steps else str(entry.step)
        speed = "-" if entry.tokens_per_s is None else f"{entry.tokens_per_s:,.0f}"
        table.add_row(
            entry.name, entry.launcher, entry.job or "-", entry.state, str(entry.attempt), steps,
            "-" if entry.loss is None else f"{entry.loss:.4f}", speed,
            "-" if entry.seconds_left is None else clock(entry.seconds_left),
            "-" if entry.goodput is None else f"{100 * entry.goodput['share']:.0f} %", entry.nodes or "-",
            entry.reason or "-",
            *((_decibels(entry.validation_nmse_db), _decibels(entry.zeroshot_nmse_db)) if is_scored else ()),
            *((_decibels(entry.fullshot_nmse_db),) if is_fullshot else ()),
        )  # fmt: skip
    plain_console(220).print(table)
