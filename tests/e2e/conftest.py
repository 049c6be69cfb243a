"""Real runs that several modules look at."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.spec.job import JobSpec
from tests.e2e.runs import Place, job_for
from tests.e2e.slurm_cluster import SlurmCluster, slurm_cluster


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


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_place(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("slurm")
    section = {"partition": "gpu", "nodes": 2, "gpus_per_node": 0, "time": "0:30:00", "signal_lead_s": 180}
    network = {"interface": slurm.interface, "check": False}
    profile = {"launcher": "slurm", "network": network, "slurm": section}
    # A prefix that is no container shows all the same that the tasks run behind it.
    container = {"prefix": "env INSIDE=container", "python": sys.executable}
    checked = {
        **profile, "network": {**network, "check": True}, "slurm": {**section, "container": container},
        "notify": {"command": f'echo "$WAVETRAIN_EVENT $WAVETRAIN_RUN $INSIDE" >> {folder}/notices'},
    }  # fmt: skip
    profiles = {"mini": profile, "checked": checked}
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"default": "mini", "profiles": profiles}))
    return Place(folder, slurm.environment)
