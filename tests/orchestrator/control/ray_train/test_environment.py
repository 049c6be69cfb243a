"""What ranks find in their environment: the profile's word over the shell's, the shell's over ours."""

from pathlib import Path

from orchestrator.control.ray_train.environment import host_name, rank_environment, ray_environment
from orchestrator.spec.cluster import NetworkSection, Profile, TimeLimitsSection


def test_the_interface_is_named_exactly_and_a_users_own_choice_stays() -> None:
    network = NetworkSection(interface="bond0")
    ours = rank_environment(network, None, {})
    assert (ours["NCCL_SOCKET_IFNAME"], ours["GLOO_SOCKET_IFNAME"]) == ("=bond0", "bond0")
    theirs = rank_environment(network, None, {"NCCL_SOCKET_IFNAME": "ib0", "TORCH_FR_BUFFER_SIZE": "9"})
    assert "NCCL_SOCKET_IFNAME" not in theirs and "TORCH_FR_BUFFER_SIZE" not in theirs
    assert theirs["GLOO_SOCKET_IFNAME"] == "bond0"


def test_the_profile_has_the_last_word() -> None:
    env = {"NCCL_IB_HCA": "mlx5", "NCCL_IB_GID_INDEX": 3, "NCCL_SOCKET_IFNAME": "=ib1", "TORCH_NCCL_DUMP_ON_TIMEOUT": 0}
    profile = Profile.model_validate({"network": {"interface": "bond0", "env": env}})
    found = rank_environment(profile.network, None, {"NCCL_SOCKET_IFNAME": "ib0"})
    assert found["NCCL_SOCKET_IFNAME"] == "=ib1" and found["NCCL_IB_GID_INDEX"] == "3"
    assert found["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0"


def test_without_an_interface_none_is_chosen_and_collectives_are_recorded_beside_the_stacks() -> None:
    found = rank_environment(NetworkSection(), Path("/runs/a/stacks"), {})
    assert "NCCL_SOCKET_IFNAME" not in found and "GLOO_SOCKET_IFNAME" not in found
    assert found["TORCH_FR_DUMP_TEMP_FILE"] == found["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] == "/runs/a/stacks/nccl-rank-"


def test_rays_limits_are_those_of_the_profile() -> None:
    found = ray_environment(TimeLimitsSection(worker_group_s=7, ray_node_s=8, shutdown_s=9))
    assert found["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "7"
    assert found["RAY_worker_register_timeout_seconds"] == "8"
    assert found["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] == "9"


def test_a_node_is_called_as_its_launcher_calls_it(monkeypatch) -> None:
    monkeypatch.setenv("WAVETRAIN_HOST", "gpu-07")
    assert host_name() == "gpu-07"
    monkeypatch.delenv("WAVETRAIN_HOST")
    assert host_name()
