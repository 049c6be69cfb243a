"""Full-shot scores have names, files and tables of their own."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.control.scoring import Scores
from orchestrator.evaluation.comparison import comparison_rows, comparison_table
from orchestrator.evaluation.direction_table import direction_comparison
from orchestrator.evaluation.score import AVERAGE, CLEAN, MODEL, NOISY, Score
from orchestrator.evaluation.shot import marked
from orchestrator.report.page import write_report
from orchestrator.report.read_run import read_run
from orchestrator.report.results import read_results, write_results
from orchestrator.report.zeroshot import fullshot_tables, zeroshot_tables
from orchestrator.run.folder import RunDirectory
from orchestrator.run.progress import scores_in_words
from tests.orchestrator.report.conftest import broken_off as broken_off
from tests.orchestrator.report.recorded import scored


def scores_of(name: str, nmse: float) -> list[Score]:
    return [Score("time", name, who, target, nmse, 5) for who in (MODEL, "linear") for target in (NOISY, CLEAN)]


def test_metrics_of_a_full_shot_run_have_other_names() -> None:
    zero, full = (Scores(scores_of("D1", 0.1), shot=shot).to_metrics() for shot in ("zero", "full"))
    assert {name for name in full if not name.startswith("fullshot/")} == set()
    assert full["fullshot/nmse_db/time/D1"] == full["fullshot/nmse_db/avg"] == -10.0
    assert zero.keys() == {name.replace("fullshot/", "eval/") for name in full}
    assert scores_in_words(full) == "full-shot NMSE -10.00 dB" and scores_in_words(zero).startswith("zero-shot")


def test_results_of_a_full_shot_run_are_other_files(tmp_path: Path) -> None:
    scores = scores_of("D1", 0.1)
    assert [path.name for path in write_results(scores, tmp_path, "full")] == [
        "fullshot.csv", "fullshot.json", "fullshot.png",
    ]  # fmt: skip
    assert read_results(tmp_path, "full") == scores and read_results(tmp_path) == []


def test_a_comparison_has_no_average_of_a_full_shot_model() -> None:
    scores = {"pretrained": scores_of("D1", 0.2) + scores_of("D2", 0.2), "rival": scores_of("D1", 0.1)}
    rows = {(name): cells for _, name, cells in comparison_rows(scores, ["rival"])}
    assert rows["D1"][1] is not None and rows["D2"][1] is None
    assert rows[AVERAGE][0] is not None and rows[AVERAGE][1] is None
    table = comparison_table(scores, ["rival"])
    assert table.title == "zero-shot and full-shot results"
    assert [column.header for column in table.columns[2:]] == ["pretrained", "rival (full-shot)"]


def test_averages_of_directions_leave_full_shot_models_out() -> None:
    def found(*names: str) -> list[Score]:
        return [Score("time", name, MODEL, CLEAN, 0.1, 5, 0.9, 0.95) for name in names]

    scores = {"pretrained": found("D1", "D2"), "rival": found("D1"), "plain": scores_of("D1", 0.1)}
    table = direction_comparison(scores, ["rival"])
    assert table is not None
    assert [*table.columns[0].cells] == ["pretrained", "rival (full-shot)", "plain"]
    assert [*table.columns[1].cells] == ["0.900 95.0 %", "-", "-"]
    assert direction_comparison(scores, ["pretrained", "rival"]) is None


def test_a_full_shot_model_is_marked_where_both_kinds_stand() -> None:
    assert (marked("rival", "full"), marked("rival", "zero")) == ("rival (full-shot)", "rival")


def test_a_report_keeps_full_shot_errors_apart(broken_off: RunDirectory, tmp_path: Path) -> None:
    zero = scored(read_run(broken_off, "FINISHED"), "pretrained", 0.1)
    full = scored(zero, "rival", 0.01, ("D1",))
    data = full.job.data.model_copy(update={"target": "D1"})
    full = replace(full, job=full.job.model_copy(update={"data": data}), caveats=("its weights are random",))
    assert zero.zeroshot == pytest.approx(-10.0) and zero.fullshot is None
    assert full.fullshot == pytest.approx(-20.0) and full.zeroshot is None
    assert all(table.columns == ("pretrained",) for table in zeroshot_tables([zero, full]))
    [table, *_] = fullshot_tables([zero, full])
    assert table.columns == ("rival",) and table.rows == ("D1",) and table.values == ((-20.0,),)
    page, *files = write_report([zero, full], tmp_path / "report.html")
    text = page.read_text()
    assert "Full-shot errors" in text and "rival: its weights are random" in text
    by_name = {path.name: path.read_text() for path in files if path.suffix == ".csv"}
    assert "rival" not in by_name["report.zeroshot.csv"] and "pretrained" not in by_name["report.fullshot.csv"]
    write_report([zero], tmp_path / "alone.html")
    assert "Full-shot" not in (tmp_path / "alone.html").read_text()
