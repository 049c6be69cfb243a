"""Scores on validation samples: what they are the mean of, and that a job which wants them has some."""

from pathlib import Path

import numpy as np
import pytest
import torch

from channels.errors import UserError
from channels.store import ChannelStore
from models.export import load_model, save_model
from models.interface import MaskDraw
from models.registry import make_spec
from orchestrator.control.scoring import Scores, keep_if_best
from orchestrator.evaluation.nmse import evaluate_set, scored_batches
from orchestrator.evaluation.score import MODEL, NOISY, Score
from orchestrator.evaluation.validation import Validation, check_validation_sets, validate
from orchestrator.run.exports import best_so_far
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job
from tests.stores import VALIDATION

NAMES = ("R1", "R2", "R3", "R4")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    options = {"size": "tiny", "position": "grid"}
    save_model(folder, "hetercsi", options, make_spec("hetercsi", options).build(0))
    return folder


@pytest.fixture
def job(small_store: Path) -> JobSpec:
    return small_job(small_store, evaluation={"every_epochs": 1, "validation_samples": 4})


def test_the_nmse_is_that_of_the_validation_split(small_store: Path, export: Path, job: JobSpec) -> None:
    found = validate(export, small_store, NAMES, job)
    by_hand = job.model_copy(update={"evaluation": job.evaluation.model_copy(update={"split": "val", "samples": 4})})
    scores = [score for name in NAMES for score in evaluate_set(export, small_store, name, by_hand)]
    for task, value in found.nmse.items():
        expected = [s.nmse for s in scores if (s.task, s.predictor, s.target) == (task, MODEL, NOISY)]
        assert len(expected) == 4 and value == pytest.approx(np.mean(expected))
    assert found.overall == pytest.approx(np.mean(list(found.nmse.values())))
    assert validate(export, small_store, NAMES, job) == found, "noise and masks are those of every validation"


def test_the_loss_is_that_of_training_on_these_samples(small_store: Path, export: Path, job: JobSpec) -> None:
    """One set, all its samples in one batch: the sums of the network over the masked tokens."""
    section = job.evaluation.model_copy(update={"split": "val", "samples": 4})
    spec, model = load_model(export)
    [(batch, _)] = scored_batches(
        spec, ChannelStore.open(small_store), "R2", spec.variants[0], job.model_copy(update={"evaluation": section}),
        "cpu",
    )  # fmt: skip
    with torch.inference_mode():
        sums = model.eval()(batch, MaskDraw(seed=section.seed, epoch=0)).double().numpy()
    targets = 4 * np.asarray(spec.target_tokens((8, 16, 8), spec.variants[0]), np.float64)
    assert validate(export, small_store, ["R2"], job).loss == pytest.approx((sums / targets).mean(), rel=1e-6)


def test_metrics_have_the_names_of_the_documentation() -> None:
    metrics = Validation(0.5, {"time": 0.1, "frequency": 1.0}, 0.55).to_metrics()
    assert metrics == {
        "val/loss": 0.5,
        "val/nmse_db/time/avg": pytest.approx(-10.0),
        "val/nmse_db/frequency/avg": 0.0,
        "val/nmse_db/avg": pytest.approx(-2.596, abs=1e-3),
    }


def test_a_job_that_chooses_by_validation_samples_has_some(small_store: Path, job: JobSpec) -> None:
    store = ChannelStore.open(small_store)
    assert check_validation_sets(store, job) == NAMES
    assert {entry.splits["val"].count for name, entry in store.sets.items() if name in NAMES} == {VALIDATION}
    assert check_validation_sets(store, small_job(small_store)) == (), "nothing is scored beside the training"
    for entry in store.sets.values():
        entry.splits.pop("val", None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"evaluation\.select val.*zeroshot"):
        check_validation_sets(store, job)
    by_zeroshot = job.model_copy(update={"evaluation": job.evaluation.model_copy(update={"select": "zeroshot"})})
    assert check_validation_sets(store, by_zeroshot) == ()


def test_the_best_model_is_chosen_by_what_the_job_names(tmp_path: Path) -> None:
    """The second model is better on the zero-shot sets, the first one on the validation samples."""
    models = [
        Scores([Score("time", "D1", MODEL, NOISY, zeroshot, 1)], Validation(1.0, {"time": val}, val))
        for zeroshot, val in ((0.5, 0.1), (0.4, 0.2))
    ]
    export = tmp_path / "export"
    export.mkdir()
    for select, best in (("val", 0), ("zeroshot", 1), ("last", None)):
        directory = RunDirectory(tmp_path / select)
        for step, scores in enumerate(models):
            keep_if_best(directory, export, scores.chosen_by(select), step, select)
        found = best_so_far(directory)
        assert (None if found is None else found.step) == best


def test_a_best_model_by_another_choice_does_not_count(tmp_path: Path) -> None:
    directory, export = RunDirectory(tmp_path / "run"), tmp_path / "export"
    export.mkdir()
    assert keep_if_best(directory, export, 0.01, 1, "zeroshot")
    assert keep_if_best(directory, export, 0.5, 2, "val")
    assert not keep_if_best(directory, export, 0.6, 3, "val")
