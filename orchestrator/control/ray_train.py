"""Ray Train's controller and worker group, with our failure policy."""

from typing import Any

from orchestrator.control.elastic import RESIZE_INTERVAL_S, make_scaling_policy
from orchestrator.control.failure_book import FailureBook
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import JobSpec

CONFIG = "worker"
"""Key of the workers' configuration: Ray Train hands a dictionary to its workers."""


def make_trainer(job: JobSpec, profile: Profile, directory: RunDirectory, *, dashboard: bool) -> Any:
    """A ``TorchTrainer`` over the run's worker group; ``fit()`` blocks until the run ended or failed for good."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy

    class BudgetedFailurePolicy(FailurePolicy):  # type: ignore[misc]
        """Asks the run's book of failures."""

        def __init__(self) -> None:
            super().__init__(FailureConfig())
            self._book = FailureBook(directory, job.failures)

        def make_decision(self, training_failed_error: Any) -> Any:
            failures = getattr(training_failed_error, "worker_failures", None)
            alone = getattr(training_failed_error, "controller_failure", training_failed_error)
            return FailureDecision.RETRY if self._book.fail(failures or {-1: alone}) else FailureDecision.RAISE

    class WavetrainTrainer(TorchTrainer):  # type: ignore[misc]
        """TorchTrainer with the policy above; the cleaner of placement groups needs a dashboard to ask."""

        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()
            if dashboard:
                return callbacks
            return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            changed = {"failure_policy": BudgetedFailurePolicy()} | ({"scaling_policy": scaling} if scaling else {})
            return super()._initialize_and_run_controller(**(arguments | changed))

    # Policies and workers live in processes whose working directories are others.
    directory = RunDirectory(directory.path.resolve())
    use_gpu = profile.device == "cuda"
    resources = {"CPU": profile.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
    config = ScalingConfig(
        num_workers=job.scale.workers,
        use_gpu=use_gpu,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )
    cache = profile.storage.cache
    worker = WorkerConfig(
        run=directory.path,
        device=profile.device,
        threads=profile.cpus_per_worker,
        cache=cache.absolute() if cache else None,
        peak_flops=profile.device_peak_flops,
    )
    elastic = config.elasticity_enabled
    scaling = make_scaling_policy(config, directory, job.batching.partitions) if elastic else None
    return WavetrainTrainer(
        train_loop_per_worker=_ray_worker,
        train_loop_config={CONFIG: worker},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=config,
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(directory.path),
            checkpoint_config=CheckpointConfig(num_to_keep=job.checkpoint.keep),
        ),
    )


def _ray_worker(config: dict[str, WorkerConfig]) -> None:
    from orchestrator.training.worker import ray_worker

    ray_worker(config[CONFIG])
