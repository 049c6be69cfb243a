"""A run under its controller, and what its worker group does."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from orchestrator.control import controller, provenance
from orchestrator.control.ray_train import trainer
from orchestrator.run.folder import RunDirectory
from tests.orchestrator.control.controlled_run import Run
from tests.orchestrator.control.stand_ins import ScriptedGroup


@pytest.fixture
def run(small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(controller, "ray_session", lambda job, profile, session: nullcontext())
    # Takes seconds to draw, and the figure is none of these tests' business.
    monkeypatch.setattr(provenance, "write_artifacts", lambda plan, catalogue, directory: [])
    return Run(small_store, tmp_path)


@pytest.fixture
def script(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the worker group does."""

    def use(*steps: Callable[[RunDirectory], Callable[[], object]], error: BaseException | None = None) -> None:
        group = ScriptedGroup([step(run.directory) for step in steps], error)
        monkeypatch.setattr(trainer, "make_worker_group", lambda job, profile, directory: group)

    return use
