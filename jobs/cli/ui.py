"""``wavetrain ui``: MLflow's web pages over the runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import Annotated

import typer

from channels.errors import UserError
from jobs.cli.options import ClusterFileOption, ClusterOption
from orchestrator.spec.cluster import load_profile
from orchestrator.tracking.database import check_database, refused
from orchestrator.tracking.experiment_view import VIEW_TAG, view_address
from orchestrator.tracking.mlflow_run import default_uri


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
    typer.echo(f"MLflow UI: http://{host}:{port}  (Ctrl-C ends it)")
    for name, experiment in experiments.items():
        typer.echo(f"{name}, padding, time and error: {view_address(f'http://{host}:{port}', experiment)}")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    raise typer.Exit(_serve(command, database))


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
    except (MlflowException, SQLAlchemyError) as error:
        raise refused(uri, error) from None
    return {one.name: one.experiment_id for one in reversed(found) if VIEW_TAG in one.tags}


def _serve(command: list[str], uri: str) -> int:
    """Run a server with its helpers in a process group of its own, which ends with this process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The address may hold a password, and everybody can read the arguments of a process.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def check_port(host: str, port: int) -> None:
    """Fail where something listens already.

    Raises:
        UserError: the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror
            raise UserError(f"port {port} on {host}: {reason}", where="--port", mend="choose another port") from None
