"""``wavetrain sync``: bring to MLflow what it missed of a run."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from channels.errors import UserError
from jobs.cli.options import ClusterFileOption, ClusterOption, RunArgument
from jobs.launch.run_list import find_run
from orchestrator.run.events import read_events
from orchestrator.run.folder import RunDirectory, run_lock
from orchestrator.spec.cluster import run_folders
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.mlflow_run import artifact_root, check_uri, default_uri

ENDED = ("FINISHED", "FAILED", "KILLED")


def sync(
    run: RunArgument,
    uri: Annotated[
        str | None, typer.Option(help="Tracking address; that of the run otherwise.", envvar="MLFLOW_TRACKING_URI")
    ] = None,
    cluster: ClusterOption = None,
    cluster_file: ClusterFileOption = None,
) -> None:
    """Complete the MLflow run of a run that has ended: metrics, parameters, tags, files, status. Again: no change."""
    folders = run_folders(cluster_file, cluster)
    directory = find_run(run, folders)
    # A folder that was moved away goes to where runs are tracked.
    runs = next((folder for folder in folders if folder.absolute() == directory.path.absolute().parent), folders[0])
    if not directory.tracking.exists():
        raise UserError(f"run {run!r} has not begun", where=str(directory.path), mend="wavetrain train SPEC")
    spec = directory.read_spec()
    address = uri or spec.tracking.uri or default_uri(runs)
    check_uri(address)
    with run_lock(directory):
        artifacts = artifact_root(runs, spec.tracking.experiment)
        run_id = complete(directory, Delivery(directory, address, spec.tracking.experiment, artifacts, spec.name))
    typer.echo(f"run {run}: MLflow run {run_id} is complete")


def complete(directory: RunDirectory, delivery: Delivery) -> str:
    """Deliver everything and set the final status; the id of the MLflow run."""
    tracker = delivery.connect()
    delivery.deliver()
    end, status = last_end(directory), directory.read_state().get("status")
    if status not in ENDED:
        # The disk was full when the state was to say it, or the controller was killed and the run can be resumed.
        status = end.get("status")
        if status is not None:
            directory.update_state(status=status)
    tracker.end(status or "KILLED", end.get("time"))
    directory.update_state(
        mlflow_run_id=tracker.run_id, mlflow_experiment_id=tracker.experiment_id, tracking_problem=None
    )
    return tracker.run_id


def last_end(directory: RunDirectory) -> Mapping[str, Any]:
    """The end (``status``, ``time``) that the newest start of a run wrote into its outbox; empty without one."""
    end: Mapping[str, Any] = {}
    for entry in read_events(directory.tracking)[0]:
        if entry["kind"] == "parameters":
            end = {}
        elif entry["kind"] == "end":
            end = entry
    return end
