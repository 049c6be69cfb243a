"""Full-shot jobs: which samples they read, what of the model follows from the target, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from channels.errors import UserError
from channels.shards import Samples
from channels.store import ChannelStore
from channels.writer import open_writer
from models.registry import make_spec
from orchestrator.data.reader import chosen_sets, chosen_zeroshot_sets, open_training_data
from orchestrator.data.target import fit_to_target
from orchestrator.evaluation.nmse import check_zeroshot_sets
from orchestrator.evaluation.validation import check_validation_sets
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job
from tests.stores import plane_waves, spec_of

SHAPE = (8, 16, 4)
COUNTS = {"train": 21, "val": 3, "test": 5}
LSTM = {"name": "lstm"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training set, a held-out set with three splits, and one with test samples only."""
    path, random = tmp_path_factory.mktemp("target") / "store", np.random.default_rng(3)

    def parts(counts: dict[str, int]) -> dict[str, list[Samples]]:
        return {split: [Samples(plane_waves(SHAPE, count, random), {})] for split, count in counts.items()}

    with open_writer(path, shard_samples=8) as writer:
        writer.add_set(spec_of("P1", SHAPE), "pretrain", {"train": 40}, parts({"train": 40}), {"seed": 0})
        writer.add_set(spec_of("D1", SHAPE), "zeroshot", COUNTS, parts(COUNTS), {"seed": 0})
        writer.add_set(spec_of("D2", SHAPE), "zeroshot", {"test": 5}, parts({"test": 5}), {"seed": 0})
    return path


def job_of(store: Path, target: str | None, model: dict | None = None, **sections: dict) -> JobSpec:
    return small_job(store, replace_model=model or LSTM, data={"target": target}, **sections)


def test_a_target_job_reads_its_set_alone_and_other_jobs_never_do(store: Path) -> None:
    job = fit_to_target(job_of(store, "D1"))
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed)
    assert catalogue.set_names == ("D1",) and catalogue.total_samples == COUNTS["train"]
    assert [origin.set_name for origin in data.origins] == ["D1"]
    opened = ChannelStore.open(store)
    assert check_zeroshot_sets(opened, job, spec) == ("D1",)
    scored = job.model_copy(update={"evaluation": job.evaluation.model_copy(update={"every_epochs": 1})})
    assert check_validation_sets(opened, scored) == ("D1",)
    other = small_job(store)
    assert chosen_sets(opened, other.data) == ("P1",) and chosen_zeroshot_sets(opened, other.data) == ("D1", "D2")


def test_the_scale_of_the_target_fills_the_model_s_options(store: Path) -> None:
    job = fit_to_target(job_of(store, "D1"))
    assert job.model.options == {"slots": 8, "subcarriers": 16, "antennas": 4}
    assert fit_to_target(job_of(store, "D1", {"name": "lstm", "layers": 4})).model.options["layers"] == 4
    tiny = {"name": "hetercsi", "size": "tiny"}
    assert fit_to_target(job_of(store, "D1", tiny)).model.options == {"size": "tiny"}
    assert fit_to_target(job_of(store, None)).model.options == {}
    wrong = fit_to_target(job_of(store, "D1", {"name": "lstm", "subcarriers": 24}))
    with pytest.raises(UserError, match="made for 8 x 24 x 4 slots x subcarriers x antennas, not for 8 x 16 x 4"):
        open_training_data(wrong.data, make_spec("lstm", wrong.model.options), 0)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("D9", "no set 'D9'"), ("P1", "P1 is a pre-training set"), ("D2", "D2 has no training samples")],
)
def test_a_target_that_cannot_be_trained_on_is_refused_on_one_line(store: Path, target: str, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        job = fit_to_target(job_of(store, target))
        open_training_data(job.data, make_spec("lstm", job.model.options), 0)
    text = str(refused.value)
    assert expected in text and "\n" not in text
    assert ("--zeroshot-train" if target == "D2" else "D1, D2") in text


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"target": "D1", "sets": ["P1"]}},
        {"data": {"target": "D1", "zeroshot_sets": ["D2"]}},
        {"data": {"target": "D1"}, "evaluation": {"every_epochs": 1, "select": "zeroshot"}},
    ],
)
def test_fields_that_contradict_a_target_are_refused(store: Path, fields: dict) -> None:
    with pytest.raises(ValueError, match="target"):
        small_job(store, **fields)


def test_a_target_decides_the_identity_and_the_written_out_scale_does_not(store: Path) -> None:
    job = job_of(store, "D1")
    assert fit_to_target(job).fingerprint == job.fingerprint != job_of(store, "D2").fingerprint
    assert "target" not in small_job(store).training_identity["data"]
    by_hand = job_of(store, None, LSTM | {"slots": 8})
    assert by_hand.fingerprint != job_of(store, None).fingerprint
