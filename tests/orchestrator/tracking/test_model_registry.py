"""The registry of models: a version with signature and example, loaded back by MLflow and by safetensors alone."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.channel_model import ChannelModel
from models.export import load_model, save_model
from models.registry import make_spec
from orchestrator.tracking.mlflow_run import Tracker
from orchestrator.tracking.model_registry import example_channels, register_model

OPTIONS = {"size": "tiny"}
SHAPE = (8, 8, 4)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Tracking URI, run id and exported files of a model that was registered twice."""
    folder = tmp_path_factory.mktemp("registry")
    uri, export = f"sqlite:///{folder / 'mlflow.db'}", folder / "export"
    save_model(export, "hetercsi", OPTIONS, make_spec("hetercsi", OPTIONS).build(seed=5))
    tracker = Tracker(uri, "study", folder / "mlartifacts", "demo", None)
    versions = [register_model(uri, tracker.run_id, export, "study-hetercsi", SHAPE) for _ in range(2)]
    assert versions == ["1", "1"]
    return uri, tracker.run_id, export


def test_mlflow_loads_what_was_trained(registered: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pytorch

    uri, run_id, export = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    loaded = mlflow.pytorch.load_model("models:/study-hetercsi/1")
    example = example_channels(SHAPE)
    with torch.inference_mode():
        wanted = ChannelModel(*load_model(export)).eval()(torch.from_numpy(example))
        torch.testing.assert_close(loaded(torch.from_numpy(example)), wanted)
    served = mlflow.pyfunc.load_model("models:/study-hetercsi/1")
    np.testing.assert_allclose(served.predict(example), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert served.predict(example_channels((4, 12, 8))).shape == (2, 4, 12, 8, 2)
    info = mlflow.models.get_model_info("models:/study-hetercsi/1")
    assert info.signature.inputs.inputs[0].shape == (-1, -1, -1, -1, 2) and info.saved_input_example_info
    assert info.run_id == run_id


def test_the_same_weights_lie_beside_it_without_a_pickle(
    registered: tuple[str, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.artifacts import download_artifacts

    uri, _, export = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = Path(download_artifacts("models:/study-hetercsi/1", dst_path=str(tmp_path)))
    _, network = load_model(folder / "extra_files")
    for one, other in zip(network.parameters(), load_model(export)[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_its_files_lie_with_its_experiment(registered: tuple[str, str, Path]) -> None:
    from mlflow import MlflowClient

    uri, run_id, export = registered
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    [output] = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.experiment_id == run.info.experiment_id and logged.source_run_id == run_id
    folder = Path(logged.artifact_location.removeprefix("file://"))
    assert folder.is_relative_to(export.parent / "mlartifacts") and (folder / "MLmodel").exists()


def test_the_address_of_others_is_left_as_it_was(
    registered: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri, run_id, export = registered
    register_model(uri, run_id, export, "study-hetercsi", SHAPE)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    register_model(uri, run_id, export, "study-hetercsi", SHAPE)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("lost", ["create_logged_model", "create_model_version", "create_registered_model"])
def test_an_answer_that_is_lost_makes_nothing_twice(
    registered: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri, _, export = registered
    run_id = Tracker(uri, "study", export.parent / "mlartifacts", lost, None).run_id
    answered = getattr(MlflowClient, lost)

    def unanswered(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(MlflowClient, lost, answered)
        answered(*arguments, **options)
        raise MlflowException("API request failed: read timed out")

    monkeypatch.setattr(MlflowClient, lost, unanswered)
    with pytest.raises(MlflowException, match="timed out"):
        register_model(uri, run_id, export, f"study-{lost}", SHAPE)
    assert register_model(uri, run_id, export, f"study-{lost}", SHAPE) == "1"
    client = MlflowClient(uri)
    assert len(client.search_model_versions(f"run_id='{run_id}'")) == 1
    experiment = client.get_run(run_id).info.experiment_id
    assert len(client.search_logged_models([experiment], f"source_run_id = '{run_id}'")) == 1
