"""What Ray Train is given for a run, without a Ray."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.ray_train import trainer as trainer_module
from orchestrator.control.ray_train.device_check import DeviceCheck
from orchestrator.control.ray_train.nodes import Wanted
from orchestrator.control.ray_train.trainer import CONFIG
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from tests.jobs_for_tests import small_job


def trainer_of(tmp_path: Path, **fields: Any) -> Any:
    profile = Profile.model_validate({"device": "cuda", "launcher": "ray", "ray_address": "10.0.0.1:6379", **fields})
    job = small_job(Path("/data/store"), "a", scale={"workers": 2})
    return trainer_module._make_trainer(job, profile, RunDirectory(tmp_path))


def test_ranks_on_a_ray_that_stands_use_the_profiles_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    trainer = trainer_of(tmp_path, network={"interface": "bond0", "env": {"NCCL_IB_HCA": "mlx5"}})
    env = trainer.run_config.worker_runtime_env["env_vars"]
    assert (env["NCCL_SOCKET_IFNAME"], env["GLOO_SOCKET_IFNAME"], env["NCCL_IB_HCA"]) == ("=bond0", "bond0", "mlx5")
    assert env["TORCH_FR_DUMP_TEMP_FILE"] == str(tmp_path / "stacks" / "nccl-rank-")


def test_limits_and_binding_reach_the_ranks(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path, time_limits={"process_group_s": 77, "first_steps_s": 88}, binding="none", nic_binding="nearest"
    )
    worker = trainer.train_loop_config[CONFIG]
    assert trainer.backend_config.timeout_s == 77
    assert (worker.first_steps_s, worker.binding, worker.nic_binding) == (88, "none", "nearest")


@pytest.mark.parametrize(("device", "checks"), [("cuda", True), ("cpu", False)])
def test_devices_are_tried_after_a_failure_where_there_are_any(tmp_path: Path, device: str, checks: bool) -> None:
    book = trainer_of(tmp_path, device=device)._policies["failure_policy"]._book
    assert isinstance(book._check_devices, DeviceCheck) is checks


@pytest.mark.parametrize(
    ("fields", "leaves_out"),
    [({}, True), ({"launcher": "local"}, True), ({"launcher": "local", "ray_address": None}, False),
     ({"launcher": "slurm", "slurm": {"partition": "gpu"}}, False)],
)  # fmt: skip
def test_nodes_are_left_out_where_ray_stands_and_nobody_replaces_them(
    tmp_path: Path, fields: dict[str, Any], leaves_out: bool
) -> None:
    lacks_without = trainer_of(tmp_path, cpus_per_worker=3, **fields)._policies["failure_policy"]._book._lacks_without
    assert (lacks_without is not None) is leaves_out
    if leaves_out:
        assert lacks_without.__self__ == Wanted(2, 4, {"CPU": 3, "GPU": 1})
