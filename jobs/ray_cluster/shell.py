"""What the shell of a command does not hand to ranks on a Ray cluster that stands."""

from collections.abc import Mapping

from jobs.ray_cluster.inside_job import INSIDE
from orchestrator.spec.cluster import NetworkSection

COMMUNICATION = ("NCCL_", "TORCH_NCCL_", "TORCH_FR_", "UCX_", "GLOO_")
"""Beginnings of the names of variables that only ranks read."""


def of_this_shell_alone(network: NetworkSection, shell: Mapping[str, str]) -> str | None:
    """A warning that names variables of communication that ranks do not get; None where there are none.

    The cluster's nodes start the ranks, with the environment that their administrator gave them. So does a job of Ray,
    whose variables are those of a node.
    """
    names = sorted(name for name in shell if name.startswith(COMMUNICATION) and name not in network.env)
    if not names or INSIDE in shell:
        return None
    return f"warning: ranks on a standing Ray do not get {', '.join(names)} of this shell; those of network.env they do"
