"""A run under its controller, without Ray and without an MLflow, and the steps of its worker group."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.control.announce import write_run
from orchestrator.control.controller import Controller
from orchestrator.control.prepare import prepare
from orchestrator.control.prepared import RunOutcome
from orchestrator.control.stop_request import StopRequest
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.tracking.delivery import Delivery
from orchestrator.tracking.run_tracking import RunTracking
from tests.jobs_for_tests import small_job
from tests.orchestrator.control.stand_ins import FakeTracker, a_view, begin_attempt, end_attempt


class Run:
    """A job without held-out sets, its controller, and what both leave."""

    def __init__(self, store: Path, folder: Path) -> None:
        profile = Profile.model_validate({"storage": {"runs": folder / "runs"}})
        job = small_job(store, data={"zeroshot_sets": []}, tracking={"register_model": False})
        self.prepared = prepare(job, profile)
        self.directory = self.prepared.directory
        self.directory.path.mkdir(parents=True, exist_ok=True)
        self.stop = StopRequest()
        self.answers = True
        self.tracker = FakeTracker(lambda: self.answers)
        self.delivery = Delivery(self.directory, "sqlite:///none", "study", folder, job.name)
        self.view, self._stream = a_view()

    def start(self) -> RunOutcome:
        write_run(self.prepared)
        self.delivery._tracker = self.tracker  # type: ignore[assignment]
        tracking = RunTracking(self.directory, self.delivery, self.view.say)
        return Controller(self.prepared, tracking, self.view, self.stop).run()

    def again(self) -> RunOutcome:
        """The same command."""
        self.prepared = replace(self.prepared, resumes=self.directory.spec.exists())
        return self.start()

    @property
    def said(self) -> str:
        assert isinstance(self._stream, io.StringIO)
        return self._stream.getvalue()

    @property
    def state(self) -> dict[str, Any]:
        return self.directory.read_state()


def attempt(directory: RunDirectory) -> Callable[[], None]:
    return begin_attempt(directory, "n1", "n2")


def finished(directory: RunDirectory) -> Callable[[], None]:
    return end_attempt(directory, "finished")
