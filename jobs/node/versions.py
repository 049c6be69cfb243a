"""Versions of what a run rests on and what must be the same on all nodes."""

from orchestrator.run.installed import installed_versions

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "submitit", "numpy", "mamba-ssm", "causal-conv1d")


def versions() -> dict[str, str]:
    """Python and the packages that must be the same on all nodes; ``missing`` for one that is not installed."""
    return installed_versions(PACKAGES)
