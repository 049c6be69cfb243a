"""The trained model in MLflow's registry: with signature and input example, and the safetensors files beside it."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from channels.store import ChannelStore
from models.channel_model import ChannelModel
from models.export import CONFIG, WEIGHTS, load_model
from models.interface import Shape

REQUIREMENTS = ("torch", "numpy", "einops", "safetensors")
OPTIONAL = frozenset({"transformers"})
"""Packages of which some models have layers."""
REGISTER_TRIES = 2
EXAMPLE_SAMPLES = 2
NAME = "model"
"""Of the logged model within its run."""
ADDRESS, PROGRESS_BARS = "MLFLOW_TRACKING_URI", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


def register_model(uri: str, run_id: str, export: Path, name: str, shape: Shape) -> str:
    """Log an exported model to its run and register it, once; its version.

    shape: scale (T, K, A) of the input example; the signature leaves all sizes free. The pickled module needs this
    package where it is loaded; ``extra_files`` hold the same weights without any pickle (models.export.load_model).
    """
    with _tracking(uri):
        from mlflow import MlflowClient

        client = MlflowClient()
        known = client.search_model_versions(f"run_id='{run_id}'")
        if known:
            return str(known[0].version)
        logged = _log(run_id, export, shape)
        _make_name(client, name)
        version = client.create_model_version(name, f"models:/{logged.model_id}", run_id, model_id=logged.model_id)
        return str(version.version)


def register_patiently(
    uri: str, run_id: Callable[[], str], export: Path, name: str, shape: Shape
) -> tuple[str | None, Exception | None]:
    """The same, twice where the first try fails: its version, or None and what is wrong. run_id: finds the run."""
    problem: Exception | None = None
    # An answer may be lost: what the first try made is found by the second.
    for _ in range(REGISTER_TRIES):
        try:
            return register_model(uri, run_id(), export, name, shape), None
        # MLflow, its database or its artifact store may raise anything here; the trained model is safe by now.
        except Exception as error:
            problem = error
    return None, problem


def _make_name(client: Any, name: str) -> None:
    """The registered model, if it is not there; runs of a sweep may make it at the same moment."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _log(run_id: str, export: Path, shape: Shape) -> Any:
    import mlflow.pytorch
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    # An earlier try may have come so far, and its answer not here.
    made = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'", max_results=1)
    if made and made[0].status is LoggedModelStatus.READY:
        return made[0]
    # Made here: Model.log would put it into the process's current experiment, whose files lie in the working directory.
    logged = made[0] if made else client.create_logged_model(
        run.info.experiment_id, NAME, source_run_id=run_id, params=run.data.params
    )  # fmt: skip
    module = ChannelModel(*load_model(export)).eval()
    return Model.log(
        artifact_path=None,
        name=NAME,
        model_id=logged.model_id,
        flavor=mlflow.pytorch,
        run_id=run_id,
        pytorch_model=module,
        signature=make_signature(),
        input_example=example_channels(shape),
        # What MLflow would find by itself in half a minute, by loading the model in another process.
        pip_requirements=[f"{package}=={metadata.version(package)}" for package in _requirements(module)],
        extra_files=[str(export / file) for file in (WEIGHTS, CONFIG)],
        serialization_format="pickle",
    )


def _requirements(module: nn.Module) -> list[str]:
    """Packages that a model is loaded with."""
    parts = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return [*REQUIREMENTS, *sorted(parts & OPTIONAL)]


def make_signature() -> Any:
    """Channels [n, T, K, A, 2] in and out, any scale."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    channels = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1, -1, 2))])
    return ModelSignature(inputs=channels, outputs=channels)


def example_channels(shape: Shape) -> Any:
    """Random channels float32 [2, T, K, A, 2] of unit power."""
    return np.random.default_rng(0).normal(scale=2**-0.5, size=(EXAMPLE_SAMPLES, *shape, 2)).astype(np.float32)


def smallest_shape(store: ChannelStore) -> Shape:
    """Scale of the store's smallest channels, for an example that costs little."""
    return min((entry.spec.shape for entry in store.sets.values()), key=math.prod)


@contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow logs models through its global address only; set it, and quiet it, for the time of a ``with``."""
    import mlflow

    before = {name: os.environ.get(name) for name in (ADDRESS, PROGRESS_BARS)}
    logger = logging.getLogger("mlflow")
    level = logger.level
    mlflow.set_tracking_uri(uri)
    logger.setLevel(logging.ERROR)
    os.environ[PROGRESS_BARS] = "false"
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
