"""The page and the files beside it."""

import csv
from dataclasses import replace
from pathlib import Path

from orchestrator.report.page import render, write_report
from orchestrator.report.read_run import read_run
from orchestrator.run.folder import RunDirectory
from tests.orchestrator.report.recorded import a_run


def test_a_page_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    record = read_run(a_run(tmp_path, [], []), "RUNNING")
    page, *beside = write_report([record], tmp_path / "page.html")
    text = page.read_text()
    assert "a is running: 0 of 8 steps" in text and "No step has been logged" in text and "No attempt" in text
    assert {path.name for path in beside} == {"page.runs.csv", "page.plan.png"}
    [row] = csv.DictReader((tmp_path / "page.runs.csv").open())
    assert (row["padding_planned"], row["padding_measured"], row["tokens_per_s"]) == ("0.1", "", "")


def test_the_page_escapes_what_it_shows(broken_off: RunDirectory) -> None:
    record = replace(read_run(broken_off, "FAILED", "<script>alert(1)</script>"), name="<b>")
    text = render([record], {}, [])
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>" not in text
