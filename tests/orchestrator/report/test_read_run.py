"""What is read from a run's own files."""

import json

import pytest

from orchestrator.evaluation.score import Score
from orchestrator.report.read_run import read_run
from orchestrator.report.results import write_results
from orchestrator.report.zeroshot import zeroshot_tables
from orchestrator.run.folder import RunDirectory


def test_repeated_steps_count_once_in_curves_and_twice_in_time(broken_off: RunDirectory) -> None:
    record = read_run(broken_off, "RUNNING")
    assert record.steps.step.tolist() == [1, 2, 3, 4, 5] and record.done == 5
    assert record.steps.samples.tolist() == [10, 20, 30, 40, 50]
    # The pause of an hour is left out; steps 3 and 4 are where the second attempt made them.
    assert record.steps.wall_s.tolist() == pytest.approx([0.5, 1.0, 2.75, 3.25, 3.75])
    seconds = {part: value for part, value in record.ledger.seconds.items() if value}
    assert seconds == pytest.approx(
        {"stopped": 3596.75, "start": 2.0, "compute": 2.0, "data_wait": 0.5, "checkpoint": 0.25, "repeated": 1.0}
    )
    assert record.stall_s == pytest.approx(0.25)
    assert [(each.first_step, each.last_step, each.outcome) for each in record.attempts] == [(0, 4, None), (2, 5, None)]
    assert [(remark.kind, remark.step, remark.text) for remark in record.remarks] == [("warning", 2, "one was torn")]
    failure = {"kind": "worker", "cause": "killed", "rank": 1, "node": None, "time": 3.0}
    broken_off.update_state(failures=[failure])
    [failed, _] = read_run(broken_off, "RUNNING").remarks
    assert (failed.kind, failed.step, failed.text) == ("failure", 4, "worker, rank 1: killed")
    assert record.checkpoints == (2,)
    assert (record.padding, record.throughput) == (pytest.approx(0.2), pytest.approx(160.0))


def test_scores_are_read_from_the_run(broken_off: RunDirectory) -> None:
    scores = [Score("time", "Z1", "model", "noisy", 0.25, 3), Score("time", "Z1", "linear", "noisy", 0.5, 3)]
    write_results(scores, broken_off.results)
    record = read_run(broken_off, "FINISHED")
    assert record.task_averages == {"time": pytest.approx(-6.0206, abs=1e-3)}
    assert record.zeroshot == pytest.approx(-6.0206, abs=1e-3)
    [table] = zeroshot_tables([record])
    assert table.columns == ("a", "linear") and table.ours == 1
    assert json.loads((broken_off.results / "zeroshot.json").read_text())
