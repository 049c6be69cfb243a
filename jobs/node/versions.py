"""Versions of what a run rests on, from the packages' metadata: nothing is imported, so nothing need be installed."""

import platform
from importlib import metadata

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "submitit", "numpy", "mamba-ssm", "causal-conv1d")


def versions() -> dict[str, str]:
    """Python and the packages that must be the same on all nodes; ``missing`` for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
