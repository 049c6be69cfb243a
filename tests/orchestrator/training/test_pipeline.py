"""The order in which steps are begun, read and handed on, with stand-ins for engine and loader."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.signals import SILENCE, Signals
from orchestrator.training.loader import StepBatch
from orchestrator.training.pipeline import SkippedStep, TrainedStep, run_steps, timed
from orchestrator.training.step_report import StepResult
from tests.orchestrator.training.batches import step_batch, step_result

SAVE = Signals(save=1)


@dataclass
class StandIn:
    """An engine that notes its calls. signals: of the result of a step. diverges: in which call on a step."""

    signals: dict[int, Signals] = field(default_factory=dict)
    diverges: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def begin(self, batch: StepBatch, number: int) -> "StandInReport":
        assert batch.step == number
        self.note("begin", number)
        return StandInReport(self, number)

    def note(self, what: str, number: int) -> None:
        self.notes.append(f"{what} {number}")
        if self.diverges.get(number) == what:
            raise TrainingDivergedError("loss is NaN")

    def run(
        self,
        steps: int,
        lag: int,
        *,
        first: int = 0,
        skipped: Collection[int] = (),
        settles_after: Callable[[StepBatch, int], bool] = lambda batch, done: False,
    ) -> Iterator[TrainedStep | SkippedStep]:
        """Steps up to number ``steps``; of the last one a state is saved, as of the last of a run."""
        batches = [(step_batch(number), float(number)) for number in range(first, steps)]
        return run_steps(
            batches,
            self.begin,
            first=first,
            lag=lag,
            skipped=skipped,
            settles_after=lambda batch, done: done == steps or settles_after(batch, done),
        )

    def take(self, steps: Iterator[TrainedStep | SkippedStep]) -> None:
        """Note what comes, and how many steps are running then."""
        for step in steps:
            running = step.running if isinstance(step, TrainedStep) else "skipped"
            self.notes.append(f"take {step.number} ({running})")


@dataclass
class StandInReport:
    engine: StandIn
    number: int

    def read(self) -> StepResult:
        self.engine.note("read", self.number)
        return step_result(float(self.number), self.engine.signals.get(self.number, SILENCE))


def test_without_a_lag_every_step_is_read_before_the_next_begins() -> None:
    engine = StandIn()
    engine.take(engine.run(3, 0))
    assert engine.notes == [
        "begin 0", "read 0", "take 0 (0)",
        "begin 1", "read 1", "take 1 (0)",
        "begin 2", "read 2", "take 2 (0)",
    ]  # fmt: skip


def test_with_a_lag_a_step_is_read_once_the_next_runs_and_the_last_ones_at_the_end() -> None:
    engine = StandIn()
    engine.take(engine.run(3, 1))
    assert engine.notes == [
        "begin 0", "begin 1", "read 0", "take 0 (1)",
        "begin 2", "read 1", "take 1 (1)", "read 2", "take 2 (0)",
    ]  # fmt: skip


def test_nothing_runs_where_a_state_is_planned() -> None:
    engine = StandIn()
    engine.take(engine.run(4, 1, settles_after=lambda batch, done: done == 2))
    assert engine.notes == [
        "begin 0", "begin 1", "read 0", "take 0 (1)", "read 1", "take 1 (0)",
        "begin 2", "begin 3", "read 2", "take 2 (1)", "read 3", "take 3 (0)",
    ]  # fmt: skip


@pytest.mark.parametrize("signal", [SAVE, Signals(stop=1), Signals(pause=1)])
def test_a_state_that_a_rank_asks_for_waits_for_the_steps_that_run_and_no_new_one_begins(signal: Signals) -> None:
    engine = StandIn(signals={0: signal})
    engine.take(engine.run(4, 1))
    assert engine.notes == [
        "begin 0", "begin 1", "read 0", "take 0 (1)", "read 1", "take 1 (0)",
        "begin 2", "begin 3", "read 2", "take 2 (1)", "read 3", "take 3 (0)",
    ]  # fmt: skip


def test_a_consumer_that_stops_leaves_nothing_running() -> None:
    engine = StandIn(signals={1: Signals(stop=2)})
    for step in engine.run(9, 1):
        if isinstance(step, TrainedStep) and step.number >= 1 and not step.running:
            break
    assert engine.notes == ["begin 0", "begin 1", "read 0", "begin 2", "read 1", "read 2"]


def test_skipped_steps_are_never_begun_and_come_in_order_with_nothing_running() -> None:
    engine = StandIn()
    engine.take(engine.run(6, 1, first=2, skipped={3, 4}))
    assert engine.notes == [
        "begin 2", "read 2", "take 2 (0)", "take 3 (skipped)", "take 4 (skipped)", "begin 5", "read 5", "take 5 (0)",
    ]  # fmt: skip


def test_a_step_carries_its_own_wait_and_its_own_batch() -> None:
    for step in StandIn().run(5, 1, skipped={2}):
        assert step.batch.step == step.number
        if isinstance(step, TrainedStep):
            assert step.wait_s == step.number == step.result.losses[0]


@pytest.mark.parametrize(("what", "lag"), [("begin", 0), ("read", 0), ("read", 1)])
def test_a_divergence_names_its_step_and_later_steps_are_lost(what: str, lag: int) -> None:
    engine = StandIn(diverges={1: what})
    with pytest.raises(TrainingDivergedError, match="loss is NaN") as caught:
        engine.take(engine.run(5, lag))
    assert caught.value.step == 1
    assert engine.notes[-1] == f"{what} 1"
    assert [note for note in engine.notes if note.startswith("take")] == [f"take 0 ({lag})"]


def test_the_loss_is_the_mean_of_the_tasks_that_mask_anything() -> None:
    [step] = StandIn().run(8, 0, first=7)
    assert isinstance(step, TrainedStep) and step.result.losses == (7.0, 0.0)
    assert step.loss == 7.0


@given(
    steps=st.integers(1, 12),
    lag=st.integers(0, 3),
    skipped=st.sets(st.integers(0, 11)),
    planned=st.sets(st.integers(1, 12)),
    wished=st.sets(st.integers(0, 11)),
)
def test_steps_come_in_order_once_and_settle_before_any_state(
    steps: int, lag: int, skipped: set[int], planned: set[int], wished: set[int]
) -> None:
    engine = StandIn(signals=dict.fromkeys(wished, SAVE))
    running: set[int] = set()
    seen: list[int] = []
    begun_before: set[int] = set()
    wanted = False
    for step in engine.run(steps, lag, skipped=skipped, settles_after=lambda batch, done: done in planned):
        begun = {int(note.split()[1]) for note in engine.notes if note.startswith("begin")}
        assert not wanted or begun == begun_before, "a step began while a state was waited for"
        seen.append(step.number)
        running = begun - set(seen)
        assert len(running) <= lag
        if isinstance(step, SkippedStep):
            assert step.number in skipped and not running
            continue
        assert step.running == len(running)
        if step.number + 1 in planned:
            assert not running
        wanted = (wanted or step.number in wished) and bool(running)
        begun_before = begun
    assert seen == list(range(steps)) and not running


def test_the_first_batch_is_waited_for_inside_what_is_given() -> None:
    notes: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        notes.append("enter")
        yield
        notes.append("leave")

    def batches() -> Iterator[StepBatch]:
        for step in range(2):
            notes.append(f"make {step}")
            yield step_batch(step)

    found = list(timed(batches(), around))
    assert [batch.step for batch, _ in found] == [0, 1] and all(wait_s >= 0 for _, wait_s in found)
    assert notes == ["enter", "make 0", "leave", "make 1"]
    assert list(timed([])) == []
