"""Hangs, spikes, stragglers and a disk that is nearly full, noticed and named."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.checkpoint.disk_space import shortage
from orchestrator.monitoring.divergence import SpikeDetector
from orchestrator.monitoring.health import Health
from orchestrator.monitoring.stragglers import WINDOW, StragglerDetector
from orchestrator.monitoring.watchdog import HANG_EXIT_CODE, STEPS_TO_KNOW, Watchdog, stack_files, stacks_file
from orchestrator.run.events import read_events
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.rank_events import rank_events


def test_a_hang_leaves_the_stacks_of_all_threads_and_ends_the_process(tmp_path: Path) -> None:
    ended = threading.Event()
    codes = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    path = stacks_file(tmp_path / "stacks", 3)
    with Watchdog(path, factor=2, floor_s=1.0, end=end) as watchdog:
        for _ in range(STEPS_TO_KNOW):
            time.sleep(0.01)
            watchdog.beat()
        assert watchdog.patience_s == 1.0
        assert ended.wait(60)
    assert codes == [HANG_EXIT_CODE]
    assert stack_files(tmp_path / "stacks") == {path.name: 3}
    text = path.read_text()
    assert text.startswith("no step for") and "test_detection.py" in text and text.count("hread 0x") >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_full_does_not_keep_a_rank_that_hangs(tmp_path: Path) -> None:
    ended = threading.Event()
    (tmp_path / "stacks").write_text("a file where the folder should be")
    with Watchdog(stacks_file(tmp_path / "stacks", 0), factor=2, floor_s=0.1, first_s=0.1, end=lambda _: ended.set()):
        assert ended.wait(60)


def test_patience_follows_the_median_step_and_the_first_steps_are_not_hurried(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path / "stacks", factor=10, floor_s=0.001)
    assert watchdog.patience_s > 600
    for _ in range(STEPS_TO_KNOW):
        time.sleep(0.02)
        watchdog.beat()
    assert 0.2 <= watchdog.patience_s < 600
    before = watchdog.patience_s
    with watchdog.paused():
        time.sleep(0.3)
    assert watchdog.patience_s == before


def test_nothing_but_steps_is_hurried(tmp_path: Path) -> None:
    ended = threading.Event()
    with Watchdog(tmp_path / "stacks", factor=2, floor_s=0.3, end=lambda code: ended.set()) as watchdog:
        for _ in range(STEPS_TO_KNOW):
            watchdog.beat()
        with watchdog.paused():
            assert not ended.wait(1.5)
        assert ended.wait(60)


def test_a_spike_is_measured_by_the_median_and_does_not_move_it() -> None:
    detector = SpikeDetector(5)
    assert [detector.add(1.0 + 0.1 * number) for number in range(10)] == [None] * 10
    assert "times the median 1.45" in str(detector.add(8.0))
    assert "times the median 1.45" in str(detector.add(8.0))
    assert detector.add(7.0) is None
    assert SpikeDetector(None).add(1e30) is None


def test_a_rank_that_stays_slow_is_named_once() -> None:
    detector = StragglerDetector(4, 1.5)
    said = [detector.add(np.array([1.0, 1.1, 2.0, 0.9])) for _ in range(2 * WINDOW)]
    assert [(number, rank) for number, (slow, _) in enumerate(said) for rank, _ in slow] == [(WINDOW - 1, 2)]
    assert said[-1][1] == pytest.approx(2.0)


def test_a_rank_that_is_slow_now_and_then_is_not_named() -> None:
    detector = StragglerDetector(2, 1.5)
    for step in range(WINDOW):
        slow, _ = detector.add(np.array([1.0, 3.0 if step % 6 == 0 else 1.0]))
    assert slow == []
    for _ in range(WINDOW):
        slow, _ = detector.add(np.array([1.0, 2.0]))
    assert [rank for rank, _ in slow] == [1]


def test_health_names_slow_ranks_in_a_warning_and_ends_at_a_loss_that_jumps(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with rank_events(path, 0) as events:
        health = Health(["n1", "n2"], events, spike_factor=5.0, slow_factor=1.5)
        slowest = [health.check(step, f"step {step}", 1.0, np.array([1.0, 2.0])) for step in range(WINDOW)]
        assert slowest == [2.0] * WINDOW
        with pytest.raises(TrainingDivergedError, match=r"8.0 times the median .*, at bucket 3") as caught:
            health.check(WINDOW, "bucket 3", 8.0, np.array([1.0, 2.0]))
    assert caught.value.step == WINDOW
    [warning], _ = read_events(path)
    assert warning["text"] == "rank 1 on n2 computes 2.0 times as long as the median rank"
    assert (warning["step"], warning["metrics"]) == (WINDOW - 1, {"health/slow_rank": 1.0})


def test_only_rank_0_writes_events_and_what_a_killed_attempt_left_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with rank_events(path, 1) as events:
        events.emit("step", step=1)
        events.sync()
    assert not path.exists()
    path.write_text('{"kind":"step","step":1}\n{"kind":"st')
    with rank_events(path, 0) as events:
        events.emit("step", step=2)
        events.sync()
    assert [event["step"] for event in read_events(path)[0]] == [1, 2]


def test_a_disk_that_holds_less_than_two_checkpoints_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-000000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state").write_bytes(bytes(10**6))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * 10**6))
    assert shortage(checkpoint) is None
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert "1 MB are free" in str(shortage(checkpoint))
