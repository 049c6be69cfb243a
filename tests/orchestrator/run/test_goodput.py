"""The ledger of a run: every second belongs to one part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.events import EventWriter
from orchestrator.run.folder import RunDirectory
from orchestrator.run.goodput import PARTS, SKEW_S, Ledger
from orchestrator.run.ledger_reader import LedgerReader, in_order

Record = dict[str, Any]


def begin(time: float, submitted: float | None = None) -> Record:
    return {"kind": "begin", "time": time, "submitted": submitted}


def attempt(time: float, step: int) -> Record:
    return {"kind": "attempt", "time": time, "step": step}


def step(time: float, number: int, all_s: float, steps_s: float, **others: float) -> Record:
    took = {"wait_s": 0.0, "exchange_s": 0.0, "saving_s": 0.0, "all_s": all_s, "steps_s": steps_s, **others}
    return {"kind": "step", "time": time, "step": number, "took": took}


def failure(time: float, retry: bool = True) -> Record:
    return {"kind": "failure", "time": time, "retry": retry}


def metrics(kind: str, time: float, **values: float) -> Record:
    return {"kind": kind, "time": time, "step": 0, "metrics" if kind != "metrics" else "values": values}


def ledger_of(records: Sequence[Record]) -> Ledger:
    ledger = Ledger()
    for record in records:
        ledger.add(record)
    return ledger


def parts_of(records: Sequence[Record]) -> dict[str, float]:
    """Those that are not zero."""
    return {part: round(seconds, 6) for part, seconds in ledger_of(records).seconds.items() if seconds > 1e-9}


FIRST_ATTEMPT = [
    begin(110, submitted=100), attempt(120, 0),
    step(123, 1, all_s=3, steps_s=2, wait_s=1), step(125, 2, all_s=2, steps_s=1.5, exchange_s=0.25, saving_s=0.4),
]  # fmt: skip
"""Queued for 10 s, up in 11, then two steps of 2 s and 1.5 s; a state was copied in 0.4 s before the second."""
FIRST_PARTS = {"queued": 10, "start": 11, "data_wait": 1, "communication": 0.25, "checkpoint": 0.4, "compute": 2.35}


def test_an_attempt_is_taken_apart() -> None:
    assert parts_of(FIRST_ATTEMPT) == FIRST_PARTS
    ledger = ledger_of(FIRST_ATTEMPT)
    assert ledger.wall_s == pytest.approx(25) and ledger.share == pytest.approx(2.6 / 25) and ledger.step == 2
    assert ledger.to_metrics()["goodput/data_wait_s"] == 1 and len(ledger.to_metrics()) == len(PARTS) + 1


def test_a_recovery_lasts_from_the_last_sign_to_the_next_step_and_its_steps_are_repeated() -> None:
    after = [failure(128), attempt(131, 1), step(133, 2, all_s=1.5, steps_s=1), step(134, 3, all_s=1, steps_s=1)]
    parts = parts_of([*FIRST_ATTEMPT, *after])
    assert parts == FIRST_PARTS | {"recovery": 7, "repeated": 1, "compute": 3.35}


def test_a_step_that_is_later_than_the_failure_of_its_attempt_does_not_end_the_recovery() -> None:
    """The failure has the time of another process, and of another clock where that is on another node."""
    late = [failure(125.5), step(126, 3, all_s=1, steps_s=1), attempt(144, 3), step(146, 4, all_s=1.5, steps_s=1)]
    assert parts_of([*FIRST_ATTEMPT, *late]) == FIRST_PARTS | {"recovery": 19.5, "compute": 3.85}


def test_scores_of_an_earlier_epoch_do_not_take_the_seconds_of_a_start() -> None:
    score = metrics("metrics", 235, **{"time/evaluation_s": 8.0})
    resumed = [begin(226), score, attempt(236, 2), step(238, 3, all_s=1.5, steps_s=1)]
    assert parts_of([*FIRST_ATTEMPT, KILLED, *resumed]) == KILLED_PARTS | {"stopped": 101, "start": 22, "compute": 3.35}


def test_a_line_for_several_steps_is_repeated_in_the_share_that_was_done_before() -> None:
    after = [failure(125), attempt(125, 0), step(129, 4, all_s=4, steps_s=4, wait_s=1)]
    parts = parts_of([*FIRST_ATTEMPT, *after])
    assert parts == FIRST_PARTS | {"repeated": 2, "data_wait": 1.5, "compute": 3.85}


def test_who_is_gone_is_stopped_and_who_waits_in_a_queue_is_queued() -> None:
    assert parts_of([*FIRST_ATTEMPT, begin(225)]) == FIRST_PARTS | {"stopped": 100}
    again = parts_of([*FIRST_ATTEMPT, begin(225, submitted=200)])
    assert again == FIRST_PARTS | {"stopped": 75, "queued": 35}
    requeued = parts_of([*FIRST_ATTEMPT, begin(225, submitted=100)])
    assert requeued == FIRST_PARTS | {"queued": 110}


KILLED = {"kind": "end", "time": 127, "status": "KILLED"}
KILLED_PARTS = FIRST_PARTS | {"stopped": 2}


def test_a_submission_is_waited_for_once() -> None:
    day = 86400
    assert parts_of([*FIRST_ATTEMPT, KILLED, begin(127 + day, submitted=100)]) == KILLED_PARTS | {"stopped": 2 + day}
    by_hand = [begin(200), {**KILLED, "time": 210}, begin(310, submitted=100)]
    assert parts_of([*FIRST_ATTEMPT, KILLED, *by_hand]) == KILLED_PARTS | {"stopped": 175, "start": 21}


def test_a_job_that_is_requeued_or_submitted_again_is_queued() -> None:
    assert parts_of([*FIRST_ATTEMPT, KILLED, begin(227, submitted=128)]) == KILLED_PARTS | {"stopped": 3, "queued": 109}
    while_it_trains = [*FIRST_ATTEMPT, KILLED, begin(227, submitted=124)]
    assert parts_of(while_it_trains) == KILLED_PARTS | {"queued": 110}


def test_the_end_of_a_run_is_saving_scoring_and_going_down() -> None:
    ends = [
        {"kind": "end", "time": 126, "outcome": "finished"},
        metrics("metrics", 130, **{"time/evaluation_s": 3.0}),
        {"kind": "end", "time": 131, "status": "FINISHED"},
    ]
    parts = parts_of([*FIRST_ATTEMPT, *ends])
    assert parts == FIRST_PARTS | {"checkpoint": 1.4, "evaluation": 3, "start": 13}


def test_scores_beside_the_training_cost_it_nothing_and_their_exports_do() -> None:
    beside = [
        metrics("metrics", 126, **{"time/evaluation_s": 3.0}),
        metrics("export", 127, **{"perf/export_stall_ms": 1500.0}), step(129, 3, all_s=4, steps_s=2),
    ]  # fmt: skip
    assert parts_of([*FIRST_ATTEMPT, *beside]) == FIRST_PARTS | {"evaluation": 1.5, "compute": 4.85}


def test_a_group_that_is_replaced_starts_and_a_machine_that_slept_was_stopped() -> None:
    resized = parts_of([*FIRST_ATTEMPT, attempt(135, 2), step(136, 3, all_s=1, steps_s=1)])
    assert resized == FIRST_PARTS | {"start": 21, "compute": 3.35}
    slept = parts_of([*FIRST_ATTEMPT, step(3725, 3, all_s=1, steps_s=1)])
    assert slept == FIRST_PARTS | {"stopped": 3599, "compute": 3.35}


def test_a_clock_that_is_set_back_costs_one_interval_and_one_that_differs_none() -> None:
    back = [step(25, 3, all_s=1, steps_s=1), step(26, 4, all_s=1, steps_s=1)]
    assert parts_of([*FIRST_ATTEMPT, *back]) == FIRST_PARTS | {"compute": 3.35}
    other_node = [failure(124), attempt(127, 2)]
    assert parts_of([*FIRST_ATTEMPT, *other_node]) == FIRST_PARTS | {"recovery": 2}


def test_a_failure_for_good_and_a_start_that_fails() -> None:
    failed = [begin(0), failure(5), failure(9, retry=False), {"kind": "end", "time": 10, "status": "FAILED"}]
    assert parts_of(failed) == {"recovery": 9, "start": 1}


SECONDS = st.floats(0, 1e5, allow_nan=False)
RECORDS = st.one_of(
    st.builds(begin, SECONDS, st.none() | SECONDS),
    st.builds(attempt, SECONDS, st.integers(0, 9)),
    st.builds(step, SECONDS, st.integers(0, 9), SECONDS, SECONDS, wait_s=SECONDS, exchange_s=SECONDS, saving_s=SECONDS),
    st.builds(failure, SECONDS, st.booleans()),
    st.builds(lambda time, ms: metrics("export", time, **{"perf/export_stall_ms": ms}), SECONDS, SECONDS),
    st.builds(lambda time, took: metrics("metrics", time, **{"time/evaluation_s": took}), SECONDS, SECONDS),
    st.builds(lambda time, end: {"kind": "end", "time": time, **end}, SECONDS, st.sampled_from([
        {"outcome": "finished"}, {"outcome": "stopped"}, {"status": "KILLED"},
    ])),
    st.builds(lambda time: {"kind": "warning", "time": time, "text": ""}, SECONDS),
)  # fmt: skip


@given(st.lists(RECORDS))
def test_whatever_happens_no_part_is_negative(records: list[Record]) -> None:
    assert min(ledger_of(records).seconds.values()) >= 0


@given(st.lists(RECORDS))
def test_in_the_order_of_time_the_parts_add_up_to_the_wall_time(records: list[Record]) -> None:
    records = sorted(records, key=lambda record: record["time"])
    ledger = ledger_of([begin(0), *records, {"kind": "end", "time": 1e5 + 1, "status": "FINISHED"}])
    assert ledger.wall_s == pytest.approx(1e5 + 1) and min(ledger.seconds.values()) >= 0


@given(st.lists(st.lists(SECONDS)))
def test_files_are_merged_and_each_keeps_its_order(times: list[list[float]]) -> None:
    files = [[{"time": time, "file": number} for time in each] for number, each in enumerate(times)]
    merged = list(in_order(files))
    assert [[record for record in merged if record["file"] == number] for number in range(len(files))] == files
    if all(each == sorted(each) for each in times):
        assert [record["time"] for record in merged] == sorted(time for each in times for time in each)


def test_the_ledger_follows_the_files_of_a_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    reader = LedgerReader(directory)
    assert reader.advance().wall_s == 0
    first, *others = FIRST_ATTEMPT
    for path, records in (
        (directory.tracking, [first]),
        (directory.events, others),
        (directory.failures, [failure(128)]),
    ):
        with EventWriter(path) as writer:
            for record in records:
                writer.write(**record)
        reader.advance()
    assert reader.ledger.wall_s == pytest.approx(28) and reader.ledger.seconds["recovery"] == pytest.approx(3)
    assert LedgerReader(directory).advance() == reader.ledger and SKEW_S > 0


def test_files_from_before_and_after_the_clock_was_set_back_are_not_mixed() -> None:
    ahead, back = 172_800.0, -172_800.0
    events = [{"kind": "step", "time": time} for time in (1.0, ahead + 2, ahead + 3, back + 4, back + 5)]
    tracking = [{"kind": "metrics", "time": time} for time in (1.5, ahead + 3.5, back + 4.5)]
    order = [record["time"] for record in in_order([tracking, [], events])]
    assert order == [1.0, 1.5, ahead + 2, ahead + 3, ahead + 3.5, back + 4, back + 4.5, back + 5]
