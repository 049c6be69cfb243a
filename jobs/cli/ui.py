"""``wavetrain ui``: MLflow's web pages over the runs."""

import sys
from typing import Annotated

import typer

from channels.errors import UserError
from jobs.cli.options import ClusterFileOption, ClusterOption
from jobs.cli.ui_server import ANY, address_of, allowed, check_port, own_addresses, own_names, serve
from orchestrator.spec.cluster import load_profile
from orchestrator.tracking.database import check_database, refused
from orchestrator.tracking.experiment_view import VIEW_TAG, view_address
from orchestrator.tracking.mlflow_run import default_uri

OTHERS = 3
"""Most further addresses that are shown."""
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow starts eight processes more for jobs over traces of language models, of which we have none."""


def ui(
    port: Annotated[int, typer.Option(help="Port of the web pages.", min=1, max=65535)] = 5000,
    uri: Annotated[str | None, typer.Option(help="Tracking database; the one of the runs otherwise.")] = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Serve the MLflow UI until interrupted, on loopback unless the profile says otherwise."""
    profile = load_profile(cluster_file, cluster)
    runs = profile.storage.runs
    if uri is not None and uri.startswith("http"):
        raise UserError("that is a server with pages of its own", where="--uri", mend="open the address in a browser")
    if uri is None and not (runs / "mlflow.db").exists():
        raise UserError("no tracking database yet", where=str(runs / "mlflow.db"), mend="train something first")
    host = profile.network.bind
    check_port(host, port)
    database = uri or default_uri(runs)
    experiments = known_experiments(database)
    names = own_names(host)
    shown = names[0] if host in ANY else host
    page = address_of(shown, port)
    lines = [f"MLflow UI: {page}  (Ctrl-C ends it)"]
    if host in ANY:
        lines += [f"           {address_of(address, port)}" for address in own_addresses()[:OTHERS]]
    lines += [
        f"{name}, padding, time and error: {view_address(page, experiment)}" for name, experiment in experiments.items()
    ]
    # The address may hold a password, and everybody can read the arguments of a process.
    environment = {"MLFLOW_BACKEND_STORE_URI": database, **NO_JOBS, **allowed(names, port)}
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    probe = address_of({"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
    typer.echo("MLflow starts; its address follows when it answers")
    raise typer.Exit(serve(command, environment, f"{probe}/health", typer.echo, lines))


def known_experiments(uri: str) -> dict[str, str]:
    """MLflow's ids of the experiments of a database that have our view, by name.

    Raises:
        UserError: the database is none, or is of another version of MLflow.
    """
    check_database(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        found = MlflowClient(tracking_uri=uri).search_experiments()
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        raise refused(uri, error) from None
    return {one.name: one.experiment_id for one in reversed(found) if VIEW_TAG in one.tags}
