"""Ray Train's controller and worker group, with our policies."""

import os
from collections.abc import Mapping
from typing import Any

from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.control.ray_train.background import Background
from orchestrator.control.ray_train.device_check import DeviceCheck
from orchestrator.control.ray_train.environment import rank_environment
from orchestrator.control.ray_train.failure_book import FailureBook
from orchestrator.control.ray_train.nodes import Wanted
from orchestrator.control.ray_train.policies import (
    BudgetedFailurePolicy,
    EndBrokenGroup,
    FixedPolicy,
    PartitionScalingPolicy,
)
from orchestrator.control.ray_train.private import DatasetsCallback, PlacementGroupCleanerCallback
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec

RESIZE_INTERVAL_S = 10.0
"""Seconds that a worker group runs at least before it may grow."""
CONFIG = "worker"
"""Key of the workers' configuration: Ray Train hands a dictionary to its workers."""


def make_worker_group(job: JobSpec, profile: Profile, directory: RunDirectory) -> Background:
    """The run's ranks, started again after failures; the thread ends with them, or when they failed for good."""
    # Policies and workers live in processes whose working directories are others.
    return Background(_make_trainer(job, profile, RunDirectory(directory.path.resolve())).fit)


class WavetrainTrainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer with our policies. dashboard: whether Ray's cleaner of placement groups has one to ask."""

    def __init__(self, *, failure_policy: Any, scaling_policy: Any, dashboard: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._policies = {"failure_policy": failure_policy, "scaling_policy": scaling_policy}
        self._dashboard = dashboard

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        # No data of Ray's: its callback would start an actor for it with every group.
        unused = (DatasetsCallback,) if self._dashboard else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [EndBrokenGroup(), *(callback for callback in callbacks if not isinstance(callback, unused))]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        return super()._initialize_and_run_controller(**(arguments | self._policies))


def _make_trainer(job: JobSpec, profile: Profile, directory: RunDirectory) -> WavetrainTrainer:
    """A trainer whose ``fit()`` blocks until the run ended or failed for good."""
    use_gpu = profile.device == "cuda"
    of_rank = {"CPU": profile.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    config = ScalingConfig(
        num_workers=job.scale.workers,
        use_gpu=use_gpu,
        resources_per_worker=of_rank,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )
    # On a Ray that stands, its nodes start the ranks, and not in this environment.
    shell = {} if profile.launcher == "ray" else os.environ
    return WavetrainTrainer(
        failure_policy=BudgetedFailurePolicy(_failure_book(job, profile, directory, of_rank)),
        scaling_policy=(
            PartitionScalingPolicy(config, directory, job.batching.partitions)
            if config.elasticity_enabled
            else FixedPolicy(config, directory)
        ),
        dashboard=profile.launcher == "ray",
        train_loop_per_worker=_ray_worker,
        train_loop_config={CONFIG: _worker_config(profile, directory)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=profile.time_limits.process_group_s),
        scaling_config=config,
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(directory.path),
            worker_runtime_env={"env_vars": rank_environment(profile.network, directory.stacks, shell)},
            checkpoint_config=CheckpointConfig(num_to_keep=job.checkpoint.keep),
        ),
    )


def _failure_book(job: JobSpec, profile: Profile, directory: RunDirectory, of_rank: Mapping[str, float]) -> FailureBook:
    """of_rank: resources that each rank needs."""
    check = DeviceCheck(directory.attempts, profile.time_limits.device_check_s) if profile.device == "cuda" else None
    stands = profile.ray_address is not None and profile.launcher != "slurm"
    wanted = Wanted(job.scale.least, job.batching.partitions, of_rank)
    return FailureBook(
        directory,
        job.failures,
        check,
        replaces_nodes=profile.launcher == "slurm",
        lacks_without=wanted.lacks_without if stands else None,
    )


def _worker_config(profile: Profile, directory: RunDirectory) -> WorkerConfig:
    cache = profile.storage.cache
    return WorkerConfig(
        run=directory.path,
        device=profile.device,
        threads=profile.cpus_per_worker,
        cache=cache.absolute() if cache else None,
        binding=profile.binding,
        nic_binding=profile.nic_binding,
        first_steps_s=profile.time_limits.first_steps_s,
        peak_flops=profile.device_peak_flops,
    )


def _ray_worker(config: dict[str, WorkerConfig]) -> None:
    from orchestrator.control.ray_train.rank import ray_worker

    ray_worker(config[CONFIG])
