"""A comparison of encoders from its specification to its files and MLflow, where a profile says."""

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from orchestrator.control.ray_train.session import standing_ray
from orchestrator.downstream.results.tracking import log_comparison
from orchestrator.downstream.results.write import write_files
from orchestrator.downstream.run import compare, prepare
from orchestrator.downstream.spec import DownstreamSpec
from orchestrator.spec.cluster import Profile
from orchestrator.tracking.mlflow_run import check_uri


def run_comparison(
    spec: DownstreamSpec,
    exports: Mapping[str, Path | None],
    profile: Profile,
    say: Callable[[str], None],
    above: str | None = None,
) -> list[Path]:
    """The files of a comparison; what an earlier call has computed is not computed again.

    exports: folders by the encoders' names, None for raw. above: MLflow's id of a run that it belongs to.

    Raises:
        UserError: something that is compared is not what it must be, or MLflow or Ray cannot be reached.
    """
    bench, encoders = prepare(spec, exports, profile.device)
    if spec.mlflow.enabled and spec.mlflow.uri is not None:
        check_uri(spec.mlflow.uri)
    runs = profile.storage.runs
    folder = runs / f"{spec.name}.downstream"
    address = profile.ray_address
    cores = len(os.sched_getaffinity(0)) if profile.device == "cpu" else 1
    with nullcontext() if address is None else standing_ray(address, profile.time_limits):
        found = compare(
            bench, encoders, folder, profile.device, say, processes=min(cores, len(encoders)),
            on_ray=address is not None,
        )  # fmt: skip
    files = write_files(found, folder)
    if spec.mlflow.enabled:
        log_comparison(found, files, folder, runs, above)
    return files
