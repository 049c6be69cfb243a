"""Models of sequences on two real ranks, full-shot: every sample, stopping and going on, export, score."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.shards import Samples
from channels.writer import open_writer
from orchestrator.data.target import fit_to_target
from orchestrator.evaluation.nmse import evaluate_set
from tests.attempts import prepare, work
from tests.jobs_for_tests import small_job
from tests.orchestrator.training.test_worker import events_of
from tests.stores import plane_waves, spec_of

SHAPE = (8, 16, 3)
COUNTS = {"train": 21, "test": 5}
needs_gpt2 = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
MODELS = [
    pytest.param({"name": "lstm"}, id="lstm"),
    pytest.param({"name": "transformer", "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.1}, id="transformer"),
    pytest.param(
        {"name": "llm4cp", "width": 16, "heads": 2, "layers": 1, "channels": 4}, id="llm4cp", marks=needs_gpt2
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, random = tmp_path_factory.mktemp("fullshot") / "store", np.random.default_rng(3)
    with open_writer(path, shard_samples=8) as writer:
        splits = {split: [Samples(plane_waves(SHAPE, count, random), {})] for split, count in COUNTS.items()}
        writer.add_set(spec_of("D1", SHAPE), "zeroshot", COUNTS, splits, {"seed": 0})
    return path


@pytest.mark.parametrize("model", MODELS)
def test_it_trains_stops_goes_on_and_is_scored(ranks: Any, store: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    job = fit_to_target(
        small_job(
            store,
            model["name"],
            replace_model=model,
            data={"target": "D1"},
            batching={"global_batch": 8, "buckets": 1, "partitions": 4},
            train={"epochs": 2, "lr": 1e-3, "warmup_epochs": 0.2},
        )
    )
    straight = prepare(tmp_path / "straight", job)
    assert ranks(2, work, str(straight.path)) == ["finished"] * 2
    for epoch in events_of(straight, "epoch"):
        assert epoch["metrics"]["data/coverage"] == 1.0

    broken = prepare(tmp_path / "broken", job)
    broken.stop_request.touch()
    assert ranks(2, work, str(broken.path)) == ["stopped"] * 2
    broken.stop_request.unlink()
    assert 0 < events_of(broken, "end")[0]["step"] < len(events_of(straight, "step"))
    assert ranks(2, work, str(broken.path)) == ["finished"] * 2
    assert (broken.export / "model.safetensors").read_bytes() == (straight.export / "model.safetensors").read_bytes()

    scores = evaluate_set(straight.export, store, "D1", job)
    assert {(score.task, score.samples) for score in scores} == {("time", 5)}
