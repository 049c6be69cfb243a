"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[Path, typer.Argument(help="Job spec (YAML), e.g. jobs/demo.yaml.", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=c (repeatable).")]
ClusterOption = Annotated[str | None, typer.Option(help="Profile of the cluster file (its default otherwise).")]
ClusterFileOption = Annotated[Path | None, typer.Option(help="Cluster file; ./cluster.yaml otherwise.")]
RunArgument = Annotated[str, typer.Argument(help="Name or folder of a run.", show_default=False)]
