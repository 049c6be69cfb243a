"""``wavetrain doctor``: is this machine ready to train?"""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.node.doctor import default_ranks, examine
from orchestrator.spec.cluster import load_profile


def doctor(
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
    uri: Annotated[str | None, typer.Option(help="Tracking server; the database of the runs otherwise.")] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=0, help="So many ranks exchange data on this machine; 0: none. Default: 2, or its one GPU."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check versions, device, kernels, storage, clock, ports, ranks and MLflow of this machine; code 1 if one fails."""
    profile = load_profile(cluster_file, cluster)
    found = examine(profile, uri, default_ranks(profile) if ranks is None else ranks)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            typer.echo(f"{finding.verdict:8} {finding.check:16} {finding.found}")
    raise typer.Exit(1 if any(finding.verdict == "failed" for finding in found) else 0)
