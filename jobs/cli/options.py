"""Arguments and options that several commands share."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[Path, typer.Argument(help="Job spec (YAML), e.g. jobs/demo.yaml.", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=c (repeatable).")]
ClusterOption = Annotated[str | None, typer.Option(help="Profile of the cluster file (its default otherwise).")]
ClusterFileOption = Annotated[Path | None, typer.Option(help="Cluster file; ./cluster.yaml otherwise.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder where relative paths of spec and profile start; this one otherwise.")
]
HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="LOGIN:FOLDER", help="Run this command there, by ssh in a checkout's folder."),
]
RunArgument = Annotated[str, typer.Argument(help="Name or folder of a run.", show_default=False)]


def profile_options(cluster: str | None, cluster_file: Path | None) -> str:
    """The options that chose a profile, for a command that is shown; each with a blank before it."""
    given = (("--cluster", cluster), ("--cluster-file", cluster_file))
    return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given if value is not None)
