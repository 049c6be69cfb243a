"""What a full-shot run is from the first check on: its model fitted to the target, and marked in MLflow."""

from pathlib import Path

import numpy as np
import pytest

from channels.shards import Samples
from channels.writer import open_writer
from models.baselines import gpt2
from orchestrator.control.announce import announce, end_tags
from orchestrator.control.prepare import prepare
from orchestrator.control.prepared import Prepared, RunOutcome
from orchestrator.evaluation.score import Score
from orchestrator.run.events import read_events
from orchestrator.run.progress import RunProgress
from orchestrator.spec.cluster import Profile
from orchestrator.tracking.outbox import Outbox
from tests.jobs_for_tests import small_job
from tests.stores import plane_waves, spec_of

SHAPE = (8, 16, 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    random, counts = np.random.default_rng(3), {"train": 16, "test": 4}
    with open_writer(tmp_path / "store") as writer:
        for name, shape in (("D1", SHAPE), ("D2", (4, 4, 4))):
            splits = {split: [Samples(plane_waves(shape, count, random), {})] for split, count in counts.items()}
            writer.add_set(spec_of(name, shape), "zeroshot", counts, splits, {"seed": 0})
    return tmp_path / "store"


def prepared(store: Path, model: str, tmp_path: Path) -> Prepared:
    batching = {"buckets": 1, "global_batch": 16, "partitions": 4}
    job = small_job(store, replace_model={"name": model}, data={"target": "D1"}, batching=batching)
    return prepare(job, Profile.model_validate({"storage": {"runs": tmp_path / "runs"}}))


def test_it_is_fitted_scored_and_tried_at_the_scale_of_its_target(store: Path, tmp_path: Path) -> None:
    of = prepared(store, "lstm", tmp_path)
    assert of.job.model.options == {"slots": 8, "subcarriers": 16, "antennas": 4}
    assert of.zeroshot == ("D1",) and of.catalogue.set_names == ("D1",)
    assert of.example_shape == SHAPE and of.caveats == ()


def test_mlflow_has_it_in_tags_parameters_data_and_description(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is computed here, so the library may be missing.
    monkeypatch.setattr(gpt2, "find_spec", lambda name: True)
    of = prepared(store, "llm4cp", tmp_path)
    of.directory.path.mkdir(parents=True)
    outbox = Outbox(of.directory)
    announce(of, outbox)
    outbox.close()
    events = read_events(of.directory.tracking)[0]
    tags = {name: value for event in events if event["kind"] == "tags" for name, value in event["values"].items()}
    assert tags["wavetrain.shot"] == "full" and "random" in tags["wavetrain.caveats"]
    [parameters] = [event["values"] for event in events if event["kind"] == "parameters"]
    assert (parameters["wavetrain.shot"], parameters["data.target"]) == ("full", "D1")
    assert {event["values"][0] for event in events if event["kind"] == "dataset"} == {"store-D1"}
    assert "full-shot: trained on D1 alone" in tags["mlflow.note.content"]
    scores = [Score("time", "D1", "model", target, 0.1, 4) for target in ("noisy", "clean")]
    outcome = RunOutcome("FINISHED", of.directory, "", scores=scores, shot=of.job.data.shot)
    ended = end_tags(of, outcome, RunProgress(), [])
    assert "full-shot NMSE: time -10.00 dB" in ended["mlflow.note.content"]
    assert "zero-shot" not in ended["mlflow.note.content"]
