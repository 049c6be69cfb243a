"""What a step is over all ranks: the ranks share the work of finding out, and all of them know the same."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from models.registry import make_spec
from orchestrator.data import global_steps as module
from orchestrator.data.global_steps import ALONE, Cursor, GlobalStep, Rows, Sharing, cursors, global_steps
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import TrainingData, open_training_data
from samplers.schedule import Schedule
from tests.jobs_for_tests import small_job


def opened(store: Path, strategy: str) -> tuple[TrainingData, Schedule]:
    job = small_job(store, batching={"strategy": strategy, "slices": 2, "global_batch": 32})
    spec = make_spec("hetercsi", {"size": "tiny"})
    catalogue, data = open_training_data(job.data, spec, 0, packed=strategy == "packed")
    return data, make_schedule(job, catalogue, data.flops)


def equal(one: GlobalStep, other: GlobalStep) -> bool:
    """To the last bit."""
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(GlobalStep))


class Ranks:
    """Runs a function on so many ranks, one thread each, that exchange rows."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.exchanges = 0
        self._rows: list[Rows | None] = [None] * world
        self._barrier = threading.Barrier(world, timeout=20)

    def exchange(self, rank: int, rows: Rows) -> Callable[[], Rows]:
        self._rows[rank] = rows
        self.exchanges += rank == 0
        self._barrier.wait()
        everyone = np.stack([part for part in self._rows if part is not None])
        self._barrier.wait()
        return lambda: everyone


@pytest.mark.parametrize("strategy", ["bucket", "packed"])
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("start", [(0, 0), (0, 3), (1, 3)], ids=str)
def test_all_ranks_know_of_every_step_what_one_alone_finds(
    strategy: str, world: int, start: Cursor, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_STEPS", 3)
    data, schedule = opened(small_store, strategy)
    ranks, looked_at = Ranks(world), [0] * world
    expected = [GlobalStep.of(data, schedule, cursor, world) for cursor in cursors(schedule, *start)]
    assert len(expected) == sum(map(schedule.steps, range(start[0], 2))) - start[1]

    def on_rank(rank: int) -> list[GlobalStep]:
        def look(cursor: Cursor) -> GlobalStep:
            looked_at[rank] += 1
            return GlobalStep.of(data, schedule, cursor, world)

        sharing = Sharing(rank, world, lambda rows: ranks.exchange(rank, rows))
        with ThreadPoolExecutor(1) as pool:
            return list(global_steps(cursors(schedule, *start), look, pool, 3, sharing))

    with ThreadPoolExecutor(world) as pool:
        for found in pool.map(on_rank, range(world)):
            assert len(found) == len(expected) and all(map(equal, found, expected))
    assert sum(looked_at) == len(expected), "every step is looked at once"
    assert max(looked_at) - min(looked_at) <= ranks.exchanges < len(expected)


def test_a_rank_alone_looks_ahead_while_steps_train(small_store: Path) -> None:
    """The looks of a block are asked for two steps before they are waited for, so that training does not wait."""
    data, schedule = opened(small_store, "bucket")
    asked, waited_for = 0, 0

    class Look(Future[GlobalStep]):
        def result(self, timeout: float | None = None) -> GlobalStep:
            nonlocal waited_for
            waited_for += 1
            return super().result(timeout)

    class Pool(Executor):
        def submit(self, fn, /, *args, **kwargs):
            nonlocal asked
            asked += 1
            look = Look()
            look.set_result(fn(*args, **kwargs))
            return look

    def look(cursor: Cursor) -> GlobalStep:
        return GlobalStep.of(data, schedule, cursor, 1)

    seen = []
    for step, cursor in zip(
        global_steps(cursors(schedule, 0, 0), look, Pool(), 3, ALONE), cursors(schedule, 0, 0), strict=True
    ):
        assert equal(step, look(cursor))
        seen.append((asked, waited_for))
    assert seen == [(5, 5), (9, 5), (9, 5), (9, 9), (9, 9), (12, 9), (12, 9), (12, 12), (12, 12), *[(12, 12)] * 3]


def test_an_exchange_begins_before_its_block_does(small_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a device has time for it: the host reads what it brought some steps later."""
    monkeypatch.setattr(module, "BLOCK_STEPS", 4)
    data, schedule = opened(small_store, "bucket")
    seen: list[str] = []

    def exchange(rows: Rows) -> Callable[[], Rows]:
        seen.append("begin")

        def read() -> Rows:
            seen.append("read")
            return np.stack([rows, rows])

        return read

    sharing = Sharing(0, 2, exchange)
    with ThreadPoolExecutor(1) as pool:
        for _ in global_steps(
            cursors(schedule, 0, 0), lambda cursor: GlobalStep.of(data, schedule, cursor, 2), pool, 3, sharing
        ):
            seen.append("step")
    assert schedule.total_steps == 12
    first, later = ["begin", "read", "begin", "step", "step"], ["read", "step", "step", "begin", "step", "step"]
    assert seen == [*first, *later, *later, "read", "step", "step"]


def test_a_finished_run_has_no_steps(small_store: Path) -> None:
    _, schedule = opened(small_store, "bucket")
    assert list(cursors(schedule, 2, 0)) == []


def test_rows_hold_every_number_exactly() -> None:
    step = GlobalStep(np.array([1e15 + 1, 0.0, 1 / 3]), 1 / 3, 2**40 + 1, 2**50 + 1, 1e18 / 7, np.pi, 0.1)
    row = step.to_row()
    assert row.shape == (GlobalStep.fields(3),)
    assert equal(GlobalStep.from_row(row), step)
    assert not equal(GlobalStep.from_row(row), replace(step, valid_tokens=2**50))


def test_cursors_are_the_steps_in_which_a_rank_trains(small_store: Path) -> None:
    _, schedule = opened(small_store, "bucket")
    for start in ((0, 0), (0, 3), (1, 1)):
        trained = [(epoch, step) for epoch, step, _ in schedule.iterate(*start, 0, 2)]
        assert list(cursors(schedule, *start)) == trained
