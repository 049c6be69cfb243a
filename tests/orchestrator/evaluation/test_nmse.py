"""Scores: the formula, the noise floor, averages, and the references against what is known of them."""

import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.export import save_model
from models.registry import make_spec
from orchestrator.control.scoring import keep_if_best
from orchestrator.evaluation.nmse import counted_elements, evaluate_set, sample_nmse, summed_squares
from orchestrator.evaluation.score import CLEAN, NOISY, Score, averages, decibels
from orchestrator.evaluation.table import to_csv, to_metrics, to_tables
from orchestrator.report.results import read_results, write_results
from orchestrator.run.exports import BestModel, best_so_far
from orchestrator.run.folder import RunDirectory
from tests.jobs_for_tests import small_job


def test_nmse_counts_masked_real_places_only() -> None:
    truth = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    guess = truth.clone()
    guess[0, 0] = 9.0
    guess[0, 1, 0] = 0.0
    masked = torch.tensor([[False, True], [False, False]])
    counted = counted_elements(masked, None)
    assert sample_nmse(guess, truth, counted, summed_squares(truth, counted)).tolist() == pytest.approx([9 / 25])
    elements = torch.ones(2, 2, 2, dtype=torch.bool)
    elements[0, 1, 1] = False
    counted = counted_elements(masked, elements)
    assert sample_nmse(guess, truth, counted, summed_squares(truth, counted)).tolist() == pytest.approx([1.0])


def test_averages_are_of_linear_values() -> None:
    """Table II of the paper: -14.74 dB is the dB of the mean, not the mean of the dB (PAPERS 2.8)."""
    rows = [-19.26, -15.91, -17.69, -18.04, -16.72, -15.29, -15.55, -15.67, -13.01, -11.14, -10.91, -17.28]
    scores = [Score("reconstruction", f"D{n}", "model", NOISY, 10 ** (row / 10), 1) for n, row in enumerate(rows)]
    assert decibels(averages(scores)["reconstruction", "model", NOISY]) == pytest.approx(-14.74, abs=0.005)


def test_a_prediction_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    directory, export = RunDirectory(tmp_path / "run"), tmp_path / "export"
    export.mkdir()
    assert math.isnan(decibels(math.nan)) and decibels(0.0) == -math.inf
    for step, (nmse, is_best) in enumerate([(math.nan, False), (0.5, True), (math.nan, False), (0.4, True)]):
        assert keep_if_best(directory, export, nmse, step, "val") is is_best
    assert best_so_far(directory) == BestModel(3, 0.4, "val")


def test_a_copy_that_a_full_disk_breaks_off_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, export = RunDirectory(tmp_path / "run"), tmp_path / "export"
    export.mkdir()
    (export / "weights").write_text("all of them")
    assert keep_if_best(directory, export, 0.5, 1, "val")

    def fail(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orchestrator.control.scoring.write_json", fail)
    with pytest.raises(UserError, match="disk is full"):
        keep_if_best(directory, export, 0.4, 2, "val")
    assert [path.name for path in directory.path.iterdir()] == ["model-best"]
    assert best_so_far(directory) == BestModel(1, 0.5, "val")


@pytest.fixture(scope="module")
def scores(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Score]:
    export = tmp_path_factory.mktemp("model")
    options = {"size": "tiny", "position": "grid"}
    save_model(export, "hetercsi", options, make_spec("hetercsi", options).build(0))
    return evaluate_set(export, small_store, "H2", small_job(small_store))


def test_every_sample_is_scored_by_every_predictor(scores: list[Score]) -> None:
    assert len(scores) == 3 * 4 * 2 + 2
    assert {score.task for score in scores if score.predictor == "prony"} == {"time"}
    assert {score.samples for score in scores} == {10}
    assert {score.task for score in scores} == {"reconstruction", "time", "frequency"}


def test_predicting_zero_scores_zero_decibels(scores: list[Score]) -> None:
    assert {round(score.decibels, 6) for score in scores if score.predictor == "zero"} == {0.0}


def test_clean_and_noisy_targets_differ_by_the_noise(scores: list[Score]) -> None:
    """Noise of 1 % of the power adds to error and power alike: noisy = (clean + 0.01) / 1.01."""
    by = {(score.task, score.predictor, score.target): score.nmse for score in scores}
    for task in ("time", "frequency"):
        clean, noisy = (by[task, "repeat_last", target] for target in (CLEAN, NOISY))
        assert noisy != clean
        assert noisy == pytest.approx((clean + 0.01) / 1.01, abs=0.01)


def test_batches_do_not_change_scores(small_store: Path, tmp_path: Path, scores: list[Score]) -> None:
    options = {"size": "tiny", "position": "grid"}
    save_model(tmp_path, "hetercsi", options, make_spec("hetercsi", options).build(0))
    again = evaluate_set(tmp_path, small_store, "H2", small_job(small_store, evaluation={"batch": 3}))
    assert [score.nmse for score in again] == pytest.approx([score.nmse for score in scores], rel=1e-5)


def test_the_noise_floor_is_where_the_paper_has_it(small_store: Path) -> None:
    """A perfect prediction of the clean channel scores 0.01 / 1.01 against the noisy one (PAPERS, finding 5)."""
    from channels.signal import add_noise, sample_keys, unit_power
    from channels.store import ChannelStore

    index = np.arange(10)
    clean = unit_power(ChannelStore.open(small_store).read("H2", "test", index))
    noisy = add_noise(clean, 20.0, 0, sample_keys("H2", "test", index), 0)
    error = np.abs(noisy - clean) ** 2
    ratio = float(np.mean(error.sum((1, 2, 3)) / (np.abs(noisy) ** 2).sum((1, 2, 3))))
    assert decibels(ratio) == pytest.approx(-20.04, abs=0.15)


def test_results_read_back_and_have_their_names(scores: list[Score], tmp_path: Path) -> None:
    paths = write_results(scores, tmp_path)
    assert [path.name for path in paths] == ["zeroshot.csv", "zeroshot.json", "zeroshot.png"]
    assert read_results(tmp_path) == scores
    assert len(to_csv(scores).splitlines()) == 1 + len(scores)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    metrics = to_metrics(scores)
    for name in ("eval/nmse_db/time/H2", "eval/nmse_db/time/avg", "eval/clean_nmse_db/frequency/avg"):
        assert name in metrics
    for name in ("eval/sgcs/time/H2", "eval/clean_se_share/frequency/avg", "eval/clean_sgcs/time/avg"):
        assert 0 < metrics[name] < 1
    assert len(to_tables(scores, "x")) == 3
    assert write_results([], tmp_path / "none") == [] and not (tmp_path / "none").exists()
