"""Each private part of Ray that is used is as it was; where one has changed, the test's name says which."""

import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import actor
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import (
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    persist_port,
)
from ray.exceptions import RayTaskError
from ray.train import RunConfig, ScalingConfig
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal import constants
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroupState
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.control.ray_train import idle_agent
from orchestrator.control.ray_train.environment import ray_environment
from orchestrator.control.ray_train.lean_node import AGENT, LEFT_OUT, SETUP_WORKER
from orchestrator.control.ray_train.private import METHODS, FailureDecision, Method, ResizeDecision
from orchestrator.run.failures import root_cause
from orchestrator.spec.cluster import TimeLimitsSection
from tests.test_imports import FILES

NODE = 28 * "ab"
CAUSE = ValueError("the worker's own")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.owner.__name__}.{method.name}")
def test_a_method_has_the_parameters_that_we_give_or_take(method: Method) -> None:
    assert tuple(inspect.signature(getattr(method.owner, method.name)).parameters) == method.parameters


def test_the_controller_takes_both_policies() -> None:
    assert {"scaling_policy", "failure_policy"} <= inspect.signature(TrainController.__init__).parameters.keys()


def test_decisions_have_the_names_that_we_return_and_read() -> None:
    assert (FailureDecision.RETRY.value, FailureDecision.RAISE.value) == ("RETRY", "RAISE")
    assert ResizeDecision(num_workers=2, resources_per_worker={}).num_workers == 2
    assert {"num_workers", "start_time"} <= set(inspect.signature(WorkerGroupState).parameters) | set(
        dir(WorkerGroupState)
    )
    assert ScalingConfig(num_workers=(1, 2)).elasticity_enabled and not ScalingConfig(num_workers=2).elasticity_enabled


@pytest.mark.parametrize("name", ["_temp_dir", "_node_ip_address"])
def test_ray_starts_with_our_private_settings(name: str) -> None:
    assert f'kwargs.pop("{name}"' in inspect.getsource(ray.init)


@pytest.mark.parametrize("method", LEFT_OUT)
def test_a_node_has_the_methods_that_we_leave_out(method: str) -> None:
    assert callable(getattr(Node, method))


def test_a_node_takes_our_script_for_its_workers() -> None:
    assert SETUP_WORKER in inspect.signature(RayParams).parameters


def test_the_agent_that_we_replace_is_there_and_ours_writes_its_ports_as_ray_does(tmp_path: Path) -> None:
    assert Path(AGENT).is_file() and "start_ray_process(" in inspect.getsource(services.start_raylet)
    agent = subprocess.Popen([sys.executable, idle_agent.__file__, f"--session-dir={tmp_path}", f"--node-id={NODE}"])
    names = (METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob(f"*_{NODE}"))) < len(names) and time.monotonic() < deadline:
        time.sleep(0.05)
    agent.kill()
    agent.wait()
    expected = tmp_path / "expected"
    expected.mkdir()
    for name in names:
        persist_port(str(expected), NODE, name, -1)
    assert {path.name: path.read_text() for path in tmp_path.glob(f"*_{NODE}")} == {
        path.name: path.read_text() for path in expected.iterdir()
    }


def test_actor_classes_are_numbered_by_the_class_that_we_replace_for_a_time() -> None:
    assert "ActorClassID.from_random()" in inspect.getsource(actor)


@pytest.mark.parametrize(
    "wrapper",
    [
        UserExceptionWithTraceback(CAUSE, "traceback"),
        WorkerHealthCheckFailedError("unhealthy", failure=CAUSE),
        ControllerError(CAUSE),
        RayTaskError("task", "traceback", CAUSE),
        ControllerError(WorkerHealthCheckFailedError("unhealthy", failure=RayTaskError("task", "traceback", CAUSE))),
    ],
    ids=lambda wrapper: type(wrapper).__name__,
)
def test_the_cause_is_found_in_what_ray_wraps_around_it(wrapper: Any) -> None:
    assert root_cause(wrapper) is CAUSE


def test_failures_of_a_group_are_by_rank() -> None:
    assert WorkerGroupError("failed", {1: CAUSE}).worker_failures == {1: CAUSE}


@pytest.mark.parametrize(
    "constant",
    [
        "HEALTH_CHECK_INTERVAL_S_ENV_VAR", "METRICS_ENABLED_ENV_VAR", "ENABLE_PREEMPTION_WATCHER_ENV_VAR",
        "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR",
    ],
)  # fmt: skip
def test_ray_train_reads_our_environment(constant: str) -> None:
    assert getattr(constants, constant) in ray_environment(TimeLimitsSection())


def test_the_end_of_a_process_group_is_waited_for_as_long_as_we_say() -> None:
    ours = ray_environment(TimeLimitsSection())
    assert ours[TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S] == "3"
    assert "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S" in inspect.getsource(_TorchBackend.on_shutdown)


def test_ranks_get_the_environment_that_we_give_them() -> None:
    assert "worker_runtime_env" in inspect.signature(RunConfig).parameters


def test_private_parts_are_used_in_one_place_only() -> None:
    users = {module for module, path in FILES.items() if "ray.train.v2._internal import" in path.read_text()}
    users |= {module for module, path in FILES.items() if "from ray.train.v2._internal" in path.read_text()}
    users |= {module for module, path in FILES.items() if "ray._private" in path.read_text()}
    ours = ("private", "sigterm", "lean_node", "fork_server")
    assert users == {f"orchestrator.control.ray_train.{name}" for name in ours}
