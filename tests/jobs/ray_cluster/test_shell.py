"""Variables of a shell that ranks on a standing Ray do not get are named, with where they belong."""

import os
from pathlib import Path

import pytest

from jobs.cli import submit
from jobs.ray_cluster import jobs as ray_jobs
from jobs.ray_cluster.inside_job import INSIDE
from jobs.ray_cluster.shell import of_this_shell_alone
from orchestrator.control.ray_train import trainer
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import NetworkSection, Profile
from tests.jobs_for_tests import small_job

SHELL = {"NCCL_IB_HCA": "mlx5", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "PATH": "/bin", "NCCL_DEBUG": "INFO"}


def test_what_stays_behind_is_named() -> None:
    network = NetworkSection(env={"NCCL_DEBUG": "WARN"})
    said = of_this_shell_alone(network, SHELL)
    assert said is not None and "get NCCL_IB_HCA, TORCH_NCCL_DUMP_ON_TIMEOUT of this shell" in said
    assert of_this_shell_alone(network, {"PATH": "/bin", "NCCL_DEBUG": "INFO"}) is None
    assert of_this_shell_alone(network, SHELL | {INSIDE: "{}"}) is None, "a job's variables are those of a node"


def test_submit_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ray_jobs, "connect", lambda dashboard: None)
    monkeypatch.setattr(ray_jobs, "check_answers", lambda address: None)
    monkeypatch.setenv("NCCL_IB_HCA", "mlx5")
    submit._check_ray(Profile.model_validate({"launcher": "ray", "ray_address": "10.0.0.1:6379"}))
    assert "NCCL_IB_HCA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("profile", "is_given"), [({}, False), ({"launcher": "ray", "ray_address": "10.0.0.1:6379"}, True)]
)
def test_a_shell_that_is_not_the_ranks_does_not_take_the_interface_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: dict[str, str], is_given: bool
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    chosen = Profile.model_validate({**profile, "network": {"interface": "bond0"}})
    made = trainer._make_trainer(small_job(Path("/data/store")), chosen, RunDirectory(tmp_path))
    found = made.run_config.worker_runtime_env["env_vars"]
    assert found["GLOO_SOCKET_IFNAME"] == "bond0"
    assert found.get("NCCL_SOCKET_IFNAME") == ("=bond0" if is_given else None)
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
