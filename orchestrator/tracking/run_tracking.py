"""The MLflow run of a live run: an outbox that is filled, and a thread that delivers it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from channels.errors import UserError
from models.interface import Shape
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.delivery import Delivery, DeliveryThread
from orchestrator.tracking.mlflow_run import artifact_root
from orchestrator.tracking.model_registry import register_patiently
from orchestrator.tracking.outbox import Outbox

OFFLINE = "tracking.offline: nothing is sent before wavetrain sync"


class RunTracking:
    """What a controller does with MLflow. say: shows a line to the user. is_offline: only keep it, for later."""

    def __init__(
        self, directory: RunDirectory, delivery: Delivery, say: Callable[[str], None], *, is_offline: bool = False
    ) -> None:
        self._directory, self._delivery, self._say = directory, delivery, say
        self.is_offline = is_offline
        self.outbox = Outbox(directory)
        self._thread = DeliveryThread(delivery)
        self._is_answering = True

    def start(self, *, required: bool) -> None:
        """Create or find the MLflow run and begin to deliver.

        Raises:
            UserError: it is required that MLflow answers now, and it does not.
        """
        if self.is_offline:
            return
        try:
            tracker = self._delivery.connect()
            self._directory.update_state(mlflow_run_id=tracker.run_id, mlflow_experiment_id=tracker.experiment_id)
        # Whatever a database driver or an HTTP library raises.
        except Exception as error:
            if required:
                raise
            self._say(f"{_one_line(error)}; training goes on, what MLflow misses is kept and sent later")
        finally:
            self._thread.start()

    def follow(self) -> None:
        """Say once that MLflow does not take what it is sent, and once that it does again."""
        problem = self._thread.problem
        if (problem is None) == self._is_answering:
            return
        self._is_answering = problem is None
        self._say(
            "MLflow answers again" if problem is None
            else f"MLflow does not answer ({problem}); training goes on, what it misses is kept and sent later"
        )  # fmt: skip

    def register_model(self, export: Path, name: str, shape: Shape) -> None:
        """Put the model into the registry; a refusal is said and no more, because the run's folder has the model.

        shape: scale of the channels that it is tried with.
        """
        if self.is_offline:
            self.outbox.model(export, name, shape)
            return
        delivery = self._delivery
        version, problem = register_patiently(delivery.uri, lambda: delivery.connect().run_id, export, name, shape)
        if problem is None:
            self.outbox.tags({"model.version": f"{name}/{version}"})
        else:
            self._say(f"warning: the model is not registered ({_one_line(problem)})")

    def end(self, tags: Mapping[str, str], status: str, is_hurried: Callable[[], bool] = lambda: False) -> str | None:
        """Deliver the end, but do not wait long for it; what is wrong, or None if MLflow has everything.

        is_hurried: whether it is not waited for any longer.
        """
        is_kept = self._keep_end(tags, status)
        if self.is_offline:
            return OFFLINE
        if self._thread.ident is None:
            return "the run ended before MLflow was asked"
        problem = self._thread.finish(is_hurried)
        return problem if is_kept else self._thread.end_directly(tags, status) or problem

    def _keep_end(self, tags: Mapping[str, str], status: str) -> bool:
        """Put the end into the outbox; whether the disk had room for it."""
        try:
            self.outbox.tags(tags)
            self.outbox.end(status)
            self.outbox.close()
        except (OSError, UserError) as error:
            self._say(f"warning: the end of the run is not kept for MLflow, only sent ({error})")
            with suppress(OSError, UserError):
                self.outbox.close()
            return False
        return True


def open_tracking(
    directory: RunDirectory, uri: str, job: JobSpec, runs: Path, say: Callable[[str], None]
) -> RunTracking:
    """For a run of a job. runs: folder of all runs, which has the files of a local MLflow."""
    experiment = job.tracking.experiment
    delivery = Delivery(directory, uri, experiment, artifact_root(runs, experiment), job.name)
    return RunTracking(directory, delivery, say, is_offline=job.tracking.offline)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"[:2000]
