"""Similarity and spectral efficiency of antenna vectors against a plain computation in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.elements import find_elements
from models.interface import ModelSpec, Shape
from models.registry import make_spec
from orchestrator.evaluation.directions import WholeVectors, compare_all
from orchestrator.evaluation.score import CLEAN, MODEL, NOISY, Score, direction_averages
from orchestrator.evaluation.table import to_csv, to_document, to_metrics, to_tables
from orchestrator.report.results import read_results, write_results
from tests.models.batches import make_channels

SNR_DB = 10.0
CASES = {
    "hetercsi": (make_spec("hetercsi", {"size": "tiny"}), (6, 7, 9), 4),
    "snapshots": (make_spec("wimamba", {"size": "tiny", "patches": [2]}), (1, 7, 3), 2),
}
by_case = pytest.mark.parametrize(("spec", "shape", "variant"), CASES.values(), ids=CASES)


def plainly(
    guess: NDArray[np.complex64], truth: NDArray[np.complex64], masked: NDArray[np.bool_]
) -> tuple[list[float], list[float]]:
    """Means of similarity and share of samples [n, T, K, A], vector by vector."""
    similarities, shares = [], []
    for sample in range(len(guess)):
        similarity, rate, best = [], 0.0, 0.0
        for slot, subcarrier in np.argwhere(masked[sample].all(axis=-1)):
            g, h = (x[sample, slot, subcarrier].astype(np.complex128) for x in (guess, truth))
            gain = abs(np.vdot(h, g)) ** 2 / (np.vdot(g, g).real or 1.0)
            similarity.append(gain / np.vdot(h, h).real)
            rate += np.log2(1 + 10 ** (SNR_DB / 10) * gain)
            best += np.log2(1 + 10 ** (SNR_DB / 10) * np.vdot(h, h).real)
        if similarity:
            similarities.append(float(np.mean(similarity)))
            shares.append(rate / best)
    return similarities, shares


@by_case
def test_as_computed_plainly(spec: ModelSpec, shape: Shape, variant: int) -> None:
    elements = find_elements(spec, shape, variant)
    assert elements is not None
    guess, truth = make_channels(4, shape, 0), make_channels(4, shape, 1)
    guess[1, :, 2:4] = 0
    tokens = {name: torch.from_numpy(spec.tokenise(x, variant).values) for name, x in (("g", guess), ("h", truth))}
    masked = torch.rand(tokens["g"].shape[:2], generator=torch.Generator().manual_seed(2)) < 0.7
    masked[2] = False
    masked[3] = True
    whole = WholeVectors.of(elements, masked)
    found = compare_all(whole, {"g": tokens["g"]}, {"h": tokens["h"]}, SNR_DB)["g", "h"]
    similarities, shares = plainly(guess, truth, elements.masked(masked).numpy())
    assert 1 <= len(similarities) < 4
    np.testing.assert_allclose(found.sgcs, similarities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.se_share, shares, rtol=0, atol=1e-6)


@by_case
def test_scale_and_phase_of_a_prediction_do_not_matter(spec: ModelSpec, shape: Shape, variant: int) -> None:
    elements = find_elements(spec, shape, variant)
    assert elements is not None
    truth = make_channels(2, shape, 0)
    tokens = [torch.from_numpy(spec.tokenise(x.astype(np.complex64), variant).values) for x in (truth, 3j * truth)]
    whole = WholeVectors.of(elements, torch.ones(tokens[0].shape[:2], dtype=torch.bool))
    found = compare_all(whole, {"g": tokens[1]}, {"h": tokens[0]}, SNR_DB)["g", "h"]
    np.testing.assert_allclose([*found.sgcs, *found.se_share], 1.0, atol=1e-6)


def test_a_prediction_that_is_not_finite_has_no_finite_score() -> None:
    spec, shape, variant = CASES["hetercsi"]
    elements = find_elements(spec, shape, variant)
    assert elements is not None
    tokens = torch.from_numpy(spec.tokenise(make_channels(2, shape, 0), variant).values)
    whole = WholeVectors.of(elements, torch.ones(tokens.shape[:2], dtype=torch.bool))
    found = compare_all(whole, {"g": tokens * torch.nan}, {"h": tokens}, SNR_DB)["g", "h"]
    assert np.isnan(found.sgcs).all() and np.isnan(found.se_share).all()


def test_where_no_vector_is_predicted_whole_there_is_no_score() -> None:
    spec, shape, variant = CASES["hetercsi"]
    elements = find_elements(spec, shape, variant)
    assert elements is not None
    tokens = torch.from_numpy(spec.tokenise(make_channels(1, shape, 0), variant).values)
    masked = torch.ones(tokens.shape[:2], dtype=torch.bool)
    masked[:, ::3] = False
    assert compare_all(WholeVectors.of(elements, masked), {"g": tokens}, {"h": tokens}, SNR_DB) == {}


def test_scores_without_directions_stay_as_they_are(tmp_path: Path) -> None:
    """Runs that were scored before there were any, and tasks that have none, beside those that have."""
    plain = Score("time", "D1", MODEL, NOISY, 0.5, 3)
    scores = [plain, Score("time", "D1", MODEL, CLEAN, 0.4, 3), Score("time", "D2", MODEL, CLEAN, 0.4, 3, 0.9, 0.95)]
    assert direction_averages(scores) == {("time", MODEL, CLEAN): (0.9, 0.95)}
    assert [name for name in to_metrics(scores) if "sgcs" in name] == [
        "eval/clean_sgcs/time/D2",
        "eval/clean_sgcs/time/avg",
    ]
    assert to_csv(scores).splitlines()[1].endswith(",0.5,-3.010,,")
    assert to_document(scores)["averages"][0]["sgcs"] is None
    assert (len(to_tables(scores, "x")), len(to_tables(scores[:2], "x"))) == (3, 2)
    write_results(scores, tmp_path)
    document = json.loads((tmp_path / "zeroshot.json").read_text())
    for row in document["scores"]:
        row.pop("sgcs"), row.pop("se_share")
    (tmp_path / "zeroshot.json").write_text(json.dumps(document))
    assert read_results(tmp_path)[0] == plain
