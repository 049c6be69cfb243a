"""Real runs that several modules look at."""

from pathlib import Path

import pytest

from orchestrator.spec.job import JobSpec
from tests.e2e.runs import Place, job_for


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A working directory whose cluster file has one profile, with a cache."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "cluster.yaml").write_text("default: here\nprofiles: {here: {storage: {runs: runs, cache: cache}}}\n")
    return Place(folder)


@pytest.fixture(scope="session")
def undisturbed(place: Place, small_store: Path) -> JobSpec:
    """A run that nobody touched."""
    job = job_for(small_store, "undisturbed")
    done = place.run("train", str(place.spec(job)))
    assert done.returncode == 0, done.stderr
    assert "average" in done.stdout and "wavetrain ui" in done.stdout
    return job
