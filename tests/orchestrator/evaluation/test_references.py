"""Which predictions without training are scored, and where."""

from typing import Any

import numpy as np
import pytest

from channels.shards import Samples
from channels.store import ChannelStore
from channels.writer import open_writer
from models.registry import make_spec
from orchestrator.evaluation.nmse import score_set
from orchestrator.evaluation.score import CLEAN, Score
from orchestrator.spec.evaluation import DEFAULT_REFERENCES, EvaluationSection
from tests.jobs_for_tests import small_job
from tests.stores import plane_waves, spec_of

SHAPE = (8, 8, 4)
ALL = ("zero", "repeat_last", "linear", "pad", "prony", "lmmse")
MODELS: dict[str, dict[str, Any]] = {
    "hetercsi": {"size": "tiny", "position": "grid"},
    "wimamba": {"size": "tiny", "patches": [2]},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ChannelStore:
    """A held-out set with training samples and one without."""
    path, random = tmp_path_factory.mktemp("channels"), np.random.default_rng(0)
    with open_writer(path) as writer:
        for name, counts in (("WITH", {"train": 60, "test": 5}), ("WITHOUT", {"test": 5})):
            splits = {split: [Samples(plane_waves(SHAPE, count, random), {})] for split, count in counts.items()}
            writer.add_set(spec_of(name, SHAPE), "zeroshot", counts, splits, {"seed": 0})
    return ChannelStore.open(path)


def scored(store: ChannelStore, model: str, name: str, **evaluation: Any) -> list[Score]:
    spec = make_spec(model, MODELS[model])
    job = small_job(store.path, replace_model={"name": model, **MODELS[model]}, evaluation=evaluation)
    return score_set(spec, spec.build(0).eval(), store, name, job, "cpu")


def predictors(scores: list[Score], task: str) -> set[str]:
    return {score.predictor for score in scores if score.task == task}


def test_what_is_asked_for_is_scored_where_it_applies(store: ChannelStore) -> None:
    scores = scored(store, "hetercsi", "WITH", references=ALL)
    everywhere = {"model", "zero", "repeat_last", "linear", "lmmse"}
    assert predictors(scores, "reconstruction") == predictors(scores, "frequency") == everywhere
    assert predictors(scores, "time") == everywhere | {"pad", "prony"}
    nmse = {(score.task, score.predictor): score.nmse for score in scores if score.target == CLEAN}
    assert nmse["time", "prony"] < nmse["time", "repeat_last"]
    for task in ("time", "frequency", "reconstruction"):
        assert nmse[task, "lmmse"] < min(nmse[task, "repeat_last"], nmse[task, "zero"])


def test_without_training_samples_there_is_no_lmmse(store: ChannelStore) -> None:
    assert "lmmse" not in {score.predictor for score in scored(store, "hetercsi", "WITHOUT", references=ALL)}
    on_training_samples = scored(store, "hetercsi", "WITH", references=("lmmse",), split="train", samples=2)
    assert {score.predictor for score in on_training_samples} == {"model"}


def test_models_of_snapshots_have_lmmse_only(store: ChannelStore) -> None:
    scores = scored(store, "wimamba", "WITH", references=("pad", "prony", "lmmse"))
    assert predictors(scores, "reconstruction_2x2") == {"model", "lmmse"}


def test_choice() -> None:
    assert EvaluationSection().reference_names == DEFAULT_REFERENCES
    assert EvaluationSection(references=False).reference_names == ()
    assert EvaluationSection.model_validate({"references": ["pad", "zero", "pad"]}).reference_names == ("pad", "zero")
    with pytest.raises(ValueError, match="oracle"):
        EvaluationSection.model_validate({"references": ["oracle"]})
