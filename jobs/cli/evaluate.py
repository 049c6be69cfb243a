"""``wavetrain evaluate``: the zero-shot table of a trained run, computed again."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from channels.errors import UserError
from jobs.cli.options import ClusterFileOption, ClusterOption, RunArgument
from jobs.launch.run_list import find_run
from orchestrator.spec.cluster import load_profile, run_folders


def evaluate(
    run: RunArgument,
    store: Annotated[Path | None, typer.Option(help="Another store whose zero-shot sets are scored.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Score a run's final weights on the held-out sets; nothing of the run is changed."""
    device = load_profile(cluster_file, cluster).device
    directory = find_run(run, run_folders(cluster_file, cluster))
    if not (directory.export / "config.json").exists():
        mend = "finish the training first (the same `wavetrain train` resumes it)"
        raise UserError(f"run {run!r} has no final weights", where=str(directory.export), mend=mend)
    import torch
    from rich.console import Console

    from channels.store import ChannelStore
    from orchestrator.evaluation.nmse import check_zeroshot_sets, evaluate_set
    from orchestrator.evaluation.table import to_document, to_tables

    job = directory.read_spec()
    if store is not None:
        job = job.model_copy(update={"data": job.data.model_copy(update={"store": store, "zeroshot_sets": None})})
    opened = ChannelStore.open(job.data.store)
    names = check_zeroshot_sets(opened, job)
    if not names:
        raise UserError("data.zeroshot_sets of the run is empty", where=str(directory.spec), mend="add --store STORE")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    scores = [score for name in names for score in evaluate_set(directory.export, opened.path, name, job, device)]
    if as_json:
        typer.echo(json.dumps(to_document(scores), indent=2))
    else:
        Console().print(*to_tables(scores, f"zero-shot results of {directory.path.name}"), sep="\n")
