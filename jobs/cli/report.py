"""``wavetrain report``: one self-contained page about one run or several, with CSV and PNG files beside it."""

from pathlib import Path
from typing import Annotated

import typer

from channels.errors import UserError
from channels.files import is_folder
from jobs.cli.launchers import make_query
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.launch.run_list import find_run
from jobs.launch.run_status import run_status
from orchestrator.spec.cluster import run_folders


def report(
    runs: Annotated[list[str], typer.Argument(help="Names or folders of runs.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page; CSV and PNG files lie beside it.")] = Path("report.html"),
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Write a report of finished, failed and running runs, side by side."""
    check_page(out)
    folders = run_folders(cluster_file, cluster)
    directories = {found.path.resolve(): found for found in (find_run(name, folders) for name in runs)}
    check_names([path.name for path in directories])
    from orchestrator.report.page import write_report
    from orchestrator.report.read_run import read_run

    records, query = [], make_query()
    for directory in directories.values():
        status = run_status(directory, query)
        records.append(read_run(directory, status.state, status.reason))
    page, *beside = write_report(records, out)
    typer.echo(f"{page} ({len(beside)} CSV and PNG files beside it)")


def check_names(names: list[str]) -> None:
    """Raises UserError for two runs of the same name, whose curves and columns would look alike."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        mend = "report them one by one, or rename a folder"
        raise UserError(f"two runs are called {twice[0]!r}", where="report", mend=mend)


def check_page(out: Path) -> None:
    """Raises UserError for a page that is no HTML file, or whose folder is not there."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out.name!r} is no HTML file", where="--out", mend="give it the ending .html")
    if not is_folder(out.parent):
        raise UserError("no such folder", where=f"--out {out.parent}", mend="make it first")
