"""MLflow: one writer, the controller; it drains the run's events and can be repeated without harm."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from channels.errors import UserError
from orchestrator.spec.yaml_files import flatten
from orchestrator.tracking.database import check_database, ensure_database, refused, without_password
from orchestrator.tracking.experiment_view import view_tags

METRICS_A_CALL = 1000
PARAMETERS_A_CALL = 100
VALUE_LENGTH = 6000
MEND_LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
PROBE = "api/2.0/mlflow/experiments/search"
"""An address that asks for the login; MLflow's own basic authentication leaves /health open to all."""
PATIENCE_S = (5.0, 30.0)
"""Until a connection stands, and until it answers: the first question to a fresh server opens its database."""
MEND_PASSWORD = (
    "give MLflow's user in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's in its own way "
    "(e.g. ~/.pgpass)"
)
MEND_ADDRESS = "e.g. http://127.0.0.1:5000 or sqlite:///mlflow.db"
MEND_URI = "start the server, or set tracking.uri to null for a local database"
KEY_TAG = "wavetrain.key"
"""Tag of a run that its maker chose before the run was created."""
WRITE_PROBE = "wavetrain-doctor"
"""Experiment that holds nothing but a tag for each machine whose writing was tried."""


def default_uri(runs: Path) -> str:
    """The sqlite database in the folder of the runs."""
    return f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def artifact_root(runs: Path, experiment: str) -> Path:
    """Where the files of an experiment lie whose database is a local one."""
    return runs / "mlartifacts" / experiment


def check_uri(uri: str) -> None:
    """Fail early, in one line, where MLflow cannot be reached.

    Raises:
        UserError: unknown scheme, a password in the address (it would be kept with the run), a server that does not
            answer within seconds or refuses the user, a file that is no database.
    """
    check_address(uri)
    if urlparse(uri).scheme in ("http", "https"):
        _ping(uri)
    check_database(uri)


def check_address(uri: str) -> None:
    """The part of it that asks nobody."""
    try:
        parsed = urlparse(uri)
    except ValueError as error:
        what = f"{without_password(uri)!r} is no address ({error})"
        raise UserError(what, where="tracking.uri", mend=MEND_ADDRESS) from None
    if parsed.password is not None:
        where = f"tracking.uri of {parsed.hostname}"
        raise UserError("the address holds a password, which the run would keep", where=where, mend=MEND_PASSWORD)
    # A database's scheme may name the driver too, e.g. mssql+pyodbc.
    if parsed.scheme.partition("+")[0] not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
        what = f"tracking URI {uri!r} is neither http(s) nor a database"
        raise UserError(what, where="tracking.uri", mend=MEND_ADDRESS)


def _ping(uri: str) -> None:
    import requests

    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    login = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    headers = {"Authorization": f"Bearer {token}"} if token and not user else None
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/{PROBE}", params={"max_results": 1}, timeout=PATIENCE_S, auth=login, headers=headers
        )
        if answer.status_code in (401, 403):
            who = f"user {user!r}" if user else "a user without name"
            raise UserError(f"MLflow at {uri!r} refuses {who}", where="tracking.uri", mend=MEND_LOGIN)
        answer.raise_for_status()
    except requests.RequestException as error:
        reason = type(error).__name__
        raise UserError(f"MLflow at {uri!r} is unreachable ({reason})", where="tracking.uri", mend=MEND_URI) from None


def try_writing(uri: str, host: str) -> None:
    """Write a tag for this machine into an experiment of its own, which is made if there is none.

    Raises:
        UserError: the server refuses the user or cannot write.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    try:
        found = client.get_experiment_by_name(WRITE_PROBE)
        experiment_id = found.experiment_id if found else client.create_experiment(WRITE_PROBE)
        client.set_experiment_tag(experiment_id, f"wavetrain.host.{host}", "has written")
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"MLflow at {uri!r} cannot be written ({reason})", where="tracking.uri", mend=MEND_LOGIN
        ) from None


class Tracker:
    """One MLflow run, created or continued.

    key: what this run is known by where the answer to its creation was lost; any text that no other run has.
    started_s: seconds since 1970 at which a run began that is created later.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifacts: Path,
        name: str,
        run_id: str | None,
        key: str | None = None,
        started_s: float | None = None,
    ) -> None:
        # A worker group inherits the environment, and MLflow's own threads must not follow it there.
        os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
        # MLflow's own retries block for minutes and make things twice; ours know what is left to send and look first.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        # It prints the traceback of what it raises as well; the controller says it once, in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            ensure_database(uri)
            self._client = MlflowClient(tracking_uri=uri)
            experiment_id = self._experiment(experiment, artifacts, local=not uri.startswith("http"))
            known = run_id if run_id is not None and self._exists(run_id) else self._made_before(experiment_id, key)
            self.run_id: str = known or self._create(experiment_id, name, key, started_s)
            if known is not None:
                self._client.update_run(known, status="RUNNING")
        except (MlflowException, SQLAlchemyError, ImportError) as error:
            raise refused(uri, error) from None
        self.experiment_id = experiment_id
        self.last_step = -1

    def _experiment(self, name: str, artifacts: Path, local: bool) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            for key, value in view_tags().items():
                if found.tags.get(key) != value:
                    self._client.set_experiment_tag(found.experiment_id, key, value)
            return str(found.experiment_id)
        location = artifacts.resolve().as_uri() if local else None
        # The kind makes MLflow's pages open with training runs instead of traces.
        tags = {"mlflow.experimentKind": "custom_model_development", **view_tags()}
        try:
            return str(self._client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            # Another first run was faster.
            found = self._client.get_experiment_by_name(name)
            if found is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(found.experiment_id)

    def _made_before(self, experiment_id: str, key: str | None) -> str | None:
        """The run of this key whose creation was not answered."""
        if key is None:
            return None
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, experiment_id: str, name: str, key: str | None, started_s: float | None) -> str:
        tags = {} if key is None else {KEY_TAG: key}
        begun = _milliseconds(started_s)
        made = self._client.create_run(experiment_id, start_time=begun, run_name=name, tags=tags)
        return str(made.info.run_id)

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def parameters(self, nested: Mapping[str, Any]) -> None:
        """Write the resolved spec once; a continued run keeps what it has."""
        from mlflow.entities import Param

        present = self._client.get_run(self.run_id).data.params
        flat = {key: str(value)[:VALUE_LENGTH] for key, value in flatten(nested).items() if key not in present}
        items = [Param(key, value) for key, value in flat.items()]
        for first in range(0, len(items), PARAMETERS_A_CALL):
            self._client.log_batch(self.run_id, params=items[first : first + PARAMETERS_A_CALL])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags (overwriting)."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value[:VALUE_LENGTH]) for key, value in tags.items()])

    def metrics(self, values: Mapping[str, float], step: int, time_s: float) -> None:
        """Write metrics of one step now."""
        self._send([{"metrics": dict(values), "step": step, "time": time_s}])

    def drain(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write the metrics of events; steps that a resumed attempt repeats are written once."""
        fresh, last = [], self.last_step
        for event in events:
            if "metrics" not in event or (event["kind"] == "step" and event["step"] <= last):
                continue
            if event["kind"] == "step":
                last = event["step"]
            fresh.append(event)
        self._send(fresh)
        # Only now: what could not be sent is sent again.
        self.last_step = last

    def _send(self, events: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        batch = [
            Metric(key, float(value), int(event["time"] * 1000), int(event["step"]))
            for event in events
            for key, value in event["metrics"].items()
        ]
        for first in range(0, len(batch), METRICS_A_CALL):
            self._client.log_batch(self.run_id, metrics=batch[first : first + METRICS_A_CALL])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def dataset(self, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Say which data the run used."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(name=name, digest=digest[:36], source_type="local", source=source, profile=profile)
        entry = DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", context)])
        self._client.log_inputs(self.run_id, datasets=[entry])

    def end(self, status: str, time_s: float | None = None) -> None:
        """FINISHED, FAILED or KILLED. time_s: when, in seconds since 1970; None: now."""
        self._client.set_terminated(self.run_id, status=status, end_time=_milliseconds(time_s))


def _milliseconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s * 1000)
