"""One Slurm serves all tests of this folder."""

import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.runs import Place
from tests.e2e.slurm.cluster import SlurmCluster, slurm_cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def place(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
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
