"""Reports: what is read from events, what the first lines say, and how figures stand beside the published ones."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.files import write_json
from orchestrator.evaluation.nmse import Score
from orchestrator.evaluation.table import write_results
from orchestrator.report.figures import POINTS, darkness, smoothed, thinned
from orchestrator.report.page import render, write_report
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord, read_run
from orchestrator.report.summary import summary
from orchestrator.report.tables import AVERAGE, published_averages, zeroshot_tables
from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from tests.jobs_for_tests import small_job

TASKS = ("reconstruction", "time", "frequency")
PLAN = {
    "strategy": "bucket", "method": "optimal", "padding": 0.1, "samples": 40, "total_steps": 8, "steps": 4,
    "buckets": [
        {"longest": 12, "lengths": [[8, 10], [12, 10]]},
        {"longest": 16, "lengths": [[16, 20]]},
    ],
}  # fmt: skip


def step_event(step: int) -> dict[str, Any]:
    """A step of 0.5 s, 0.1 s of it waiting, with 80 valid of 100 tokens."""
    metrics = {
        "train/loss": 1.0 / step, "train/lr": 1e-3, "train/epoch": step / 4, "data/padding_ratio": 0.2,
        "perf/tokens_per_s": 160.0, "perf/step_ms": 500.0, "perf/data_wait_ms": 100.0,
    }  # fmt: skip
    return {"kind": "step", "step": step, "metrics": metrics}


def attempt(step: int) -> dict[str, Any]:
    return {"kind": "attempt", "step": step, "world": 2, "total_steps": 8, "device": "cpu"}


def a_run(
    folder: Path, events: Sequence[dict[str, Any]], times: Sequence[float], name: str = "a", **state: Any
) -> RunDirectory:
    """A run's folder with these events at these times."""
    directory = RunDirectory(folder / name)
    directory.path.mkdir(parents=True)
    write_json(directory.spec, small_job(folder / "store", name).model_dump(mode="json"))
    write_json(directory.plan, PLAN)
    directory.update_state(status="RUNNING", **state)
    with EventWriter(directory.events) as writer:
        for event, time in zip(events, times, strict=True):
            writer.write(**{**event, "time": time})
    return directory


@pytest.fixture
def broken_off(tmp_path: Path) -> RunDirectory:
    """Four steps, a checkpoint after the second, a kill; an hour later the last two again and one more."""
    stall = {"kind": "checkpoint", "step": 2, "metrics": {"perf/checkpoint_stall_ms": 250.0}}
    first = [attempt(0), step_event(1), step_event(2), stall, step_event(3), step_event(4)]
    second = [attempt(2), {"kind": "warning", "text": "one was torn"}, step_event(3), step_event(4), step_event(5)]
    times = [0.0, 0.5, 1.0, 1.25, 1.75, 2.25, 3600.0, 3600.0, 3600.5, 3601.0, 3601.5]
    return a_run(tmp_path, [*first, *second], times, evaluation_s=None)


def test_repeated_steps_count_once_in_curves_and_twice_in_time(broken_off: RunDirectory) -> None:
    record = read_run(broken_off, "RUNNING")
    assert record.steps.step.tolist() == [1, 2, 3, 4, 5] and record.done == 5
    assert record.steps.samples.tolist() == [10, 20, 30, 40, 50]
    # The pause of an hour is left out; steps 3 and 4 are where the second attempt made them.
    assert record.steps.wall_s.tolist() == pytest.approx([0.5, 1.0, 2.75, 3.25, 3.75])
    budget = record.budget
    assert (budget.data_wait, budget.compute) == pytest.approx((0.7, 2.8))
    assert (budget.checkpoint, budget.repeated, budget.evaluation) == (pytest.approx(0.25), pytest.approx(1.0), None)
    assert [(life.first_step, life.last_step, life.outcome) for life in record.attempts] == [(0, 4, None), (2, 5, None)]
    assert [(remark.kind, remark.step, remark.text) for remark in record.remarks] == [("warning", 2, "one was torn")]
    failure = {"kind": "worker", "cause": "killed", "rank": 1, "node": None, "time": 3.0}
    broken_off.update_state(failures=[failure])
    [failed, _] = read_run(broken_off, "RUNNING").remarks
    assert (failed.kind, failed.step, failed.text) == ("failure", 4, "worker, rank 1: killed")
    assert record.checkpoints == (2,)
    assert (record.padding, record.throughput) == (pytest.approx(0.2), pytest.approx(160.0))


def test_a_page_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    record = read_run(a_run(tmp_path, [], []), "RUNNING")
    page, *beside = write_report([record], tmp_path / "page.html")
    text = page.read_text()
    assert "a is running: 0 of 8 steps" in text and "No step has been logged" in text and "No attempt" in text
    assert {path.name for path in beside} == {"page.runs.csv", "page.plan.png"}
    [row] = csv.DictReader((tmp_path / "page.runs.csv").open())
    assert (row["padding_planned"], row["padding_measured"], row["tokens_per_s"]) == ("0.1", "", "")


def test_the_page_escapes_what_it_tells(broken_off: RunDirectory) -> None:
    record = replace(read_run(broken_off, "FAILED", "<script>alert(1)</script>"), name="<b>")
    text = render([record], {}, [])
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>" not in text


def scored(record: RunRecord, name: str, nmse: float, sets: Sequence[str] = ("D1", "D2")) -> RunRecord:
    """The record under another name, with these errors."""
    scores = tuple(Score(task, set_name, "model", "noisy", nmse, 5) for task in TASKS for set_name in sets)
    return replace(record, name=name, status="FINISHED", scores=scores)


def test_the_first_lines_compare(broken_off: RunDirectory) -> None:
    record = read_run(broken_off, "FINISHED")
    better, worse = scored(record, "better", 0.1), scored(record, "worse", 0.2)
    steps = replace(worse.steps, tokens_per_s=worse.steps.tokens_per_s / 2, padding=worse.steps.padding * 2)
    lines = summary([better, replace(worse, steps=steps)])
    assert lines == [
        "better padded least (20.0 %, against 40.0 % of worse).",
        "better trained fastest (160 valid tokens/s, against 80 valid tokens/s of worse).",
        "better generalised best (-10.00 dB, against -6.99 dB of worse).",
    ]
    assert summary([better, scored(record, "other", 0.101)])[-1].startswith("Their zero-shot errors are level")
    assert "scored on different sets" in " ".join(summary([better, scored(record, "other", 0.2, ("Z1",))]))
    assert "The runs had different workers or devices" in " ".join(
        summary([better, replace(worse, steps=steps, attempts=(replace(worse.attempts[-1], workers=8),))])
    )


def test_one_run_is_told_in_full(broken_off: RunDirectory) -> None:
    lines = summary([scored(read_run(broken_off, "FINISHED"), "only", 0.1)])
    assert lines[0] == "only has finished: 2 epochs, 5 of 8 steps."
    assert lines[-1].endswith("-10.00 dB in reconstruction, -10.00 dB in time, -10.00 dB in frequency.")


def test_published_methods_stand_beside_the_published_sets_only(broken_off: RunDirectory) -> None:
    record = read_run(broken_off, "FINISHED")
    [first, *_] = zeroshot_tables([scored(record, "mine", 0.1)])
    place = first.columns.index("HeterCSI (published)")
    assert first.ours == 1 and first.rows == ("D1", "D2", AVERAGE)
    assert [row[place] for row in first.values] == [-19.26, -15.91, pytest.approx(-17.27, abs=0.01)]
    [other, *_] = zeroshot_tables([scored(record, "mine", 0.1, ("Z1",))])
    assert other.columns == ("mine",)
    table = published_averages(["time", "snapshot"])
    assert (
        table
        and table.columns == ("time",)
        and ("WiFo", -4.60) in zip(table.rows, [row[0] for row in table.values], strict=True)
    )
    assert published_averages(["snapshot"]) is None


def test_published_averages_are_those_of_their_rows() -> None:
    for task, methods in published("hetercsi")["table2"].items():
        for method, figures in methods.items():
            linear = np.mean([10 ** (value / 10) for value in figures["rows"]])
            # The paper's average of PAD is 0.2 dB under that of its rows.
            tolerance = 0.25 if method == "PAD" else 0.02
            assert 10 * np.log10(linear) == pytest.approx(figures["average"], abs=tolerance), (task, method)


def test_scores_are_read_from_the_run(broken_off: RunDirectory) -> None:
    scores = [Score("time", "Z1", "model", "noisy", 0.25, 3), Score("time", "Z1", "linear", "noisy", 0.5, 3)]
    write_results(scores, broken_off.results)
    record = read_run(broken_off, "FINISHED")
    assert record.task_averages == {"time": pytest.approx(-6.0206, abs=1e-3)}
    assert record.zeroshot == pytest.approx(-6.0206, abs=1e-3)
    [table] = zeroshot_tables([record])
    assert table.columns == ("a", "linear") and table.ours == 1
    assert json.loads((broken_off.results / "zeroshot.json").read_text())


def test_long_series_are_thinned_and_smoothed() -> None:
    values = np.arange(10_000, dtype=np.float64)
    along, thin = thinned(values, values)
    assert len(along) == POINTS and thin[0] == pytest.approx(12, abs=1) and np.all(np.diff(thin) > 0)
    assert smoothed(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    assert len(smoothed(values)) == len(values)
    assert (darkness(2.0, -10.0), darkness(-5.0, -10.0), darkness(-20.0, -10.0)) == (0.0, 0.5, 1.0)
