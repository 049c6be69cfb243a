"""Environment variables of a run's processes: what Ray reads, and what the ranks' communication does.

What a profile's ``network.env`` says wins over the user's shell, and the user's shell over the defaults here.
"""

import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.spec.cluster import NetworkSection, TimeLimitsSection

HOST = "WAVETRAIN_HOST"
"""Name of this node as its launcher calls it; a machine may call itself otherwise."""
NODE = "WAVETRAIN_NODE"
"""Number of this node in its job; the controller is on node 0."""
NODE_CHECKS = {"RAY_health_check_period_ms": "500"}
"""How often Ray asks its nodes whether they live. One that refuses five times is dead, and no group waits for it any
longer; one that is only slow has Ray's ten seconds for each answer."""
FLIGHT_RECORDER = {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
"""torch keeps the last collective operations of a rank, and writes them down where one takes too long."""
FLIGHT_RECORDER_FILES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
"""Beginning of the names of those files, to which torch adds the rank; the second is their older name."""


def ray_environment(limits: TimeLimitsSection) -> dict[str, str]:
    """Settings that Ray reads from the environment of the driver and of its nodes."""
    return {
        **NODE_CHECKS,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(limits.worker_group_s),
        "RAY_worker_register_timeout_seconds": str(limits.ray_node_s),
        # Ranks of a broken group wait for each other here before they are ended.
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": str(limits.shutdown_s),
        # Workers are what this machine is here for: no lower priority than the controller's.
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def rank_environment(network: NetworkSection, stacks: Path | None, shell: Mapping[str, str]) -> dict[str, str]:
    """What the ranks get beyond the variables of ``shell``, the environment of whoever starts them.

    stacks: folder for the flight recorder of ranks that hang; None: torch's own place.
    """
    ours = dict(FLIGHT_RECORDER)
    if stacks is not None:
        ours |= dict.fromkeys(FLIGHT_RECORDER_FILES, str(stacks / "nccl-rank-"))
    if network.interface is not None:
        # NCCL takes a name for the beginning of names, so that bond0 is bond01 too, unless `=` stands before it.
        ours |= {"GLOO_SOCKET_IFNAME": network.interface, "NCCL_SOCKET_IFNAME": f"={network.interface}"}
    return {name: value for name, value in ours.items() if name not in shell} | network.env


def same_host(name: str, hosts: Collection[str]) -> str | None:
    """Which of some nodes' names means the same node.

    A name may have its domain or lack it where that means one name alone: ``n1.a`` is ``n1``, but not ``n1.b``, and
    ``n1`` is neither of the two where both are there.
    """
    found = {name} & set(hosts) or {host for host in hosts if _differ_by_domain(name, host)}
    return found.pop() if len(found) == 1 else None


def _differ_by_domain(one: str, other: str) -> bool:
    """Whether two names differ only in that one of them has no domain."""
    short, longer = sorted((one, other), key=len)
    return longer.startswith(f"{short}.") and "." not in short


def host_name() -> str:
    """This node as its launcher calls it, else as it calls itself."""
    return os.environ.get(HOST) or platform.node()
