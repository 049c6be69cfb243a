"""Progress folded from events, and the two ways it is shown."""

import io
import os
import pty
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run.event_tail import read_tail
from orchestrator.run.events import EventWriter, read_events
from orchestrator.run.progress import TRACE_LENGTH, RunProgress, Trace, clock, sparkline
from orchestrator.view.live import LiveView
from orchestrator.view.panel import make_panel


def attempt_event(step: int = 0) -> dict[str, Any]:
    fields = {"world": 2, "device": "cpu", "total_steps": 100, "epochs": 4}
    return {"kind": "attempt", "step": step, "time": 0.0, **fields}


def step_event(step: int, ms: float = 100.0, padding: float = 0.125, **more: float) -> dict[str, Any]:
    metrics = {
        "train/loss": 1.0 / step, "train/epoch": step / 25, "perf/tokens_per_s": 12345.6, "perf/step_ms": ms,
        "data/padding_ratio": padding, "perf/data_wait_ms": 2.0, **more,
    }  # fmt: skip
    return {"kind": "step", "step": step, "time": 0.0, "metrics": metrics}


def system_event(node: str, time: float, **values: float) -> dict[str, Any]:
    metrics = {f"system/{node}/{name}": value for name, value in values.items()}
    return {"kind": "system", "step": 1, "time": time, "metrics": metrics}


def shown(progress: RunProgress, now: float = 0.0, state: str = "") -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=110)
    console.print(make_panel(progress, "demo", now, state))
    return console.file.getvalue()


def test_off_a_terminal_plain_lines_come_now_and_then() -> None:
    stream = io.StringIO()
    view = LiveView(stream=stream)
    view.update([attempt_event()])
    for step in range(1, 50):
        view.update([step_event(step)])
    view.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "2 ranks on cpu, 100 steps" in lines[0]
    for part in ("step 49/100", "loss 0.0204", "12,346 tokens/s", "padding 12.5 %", "left 0:05"):
        assert part in lines[-1], lines[-1]


def test_rates_are_of_all_recent_steps_together() -> None:
    progress = RunProgress()
    progress.add(attempt_event())
    progress.add(step_event(1, ms=100.0, padding=0.0, **{"perf/tokens_per_s": 1000.0}))
    progress.add(step_event(2, ms=300.0, padding=0.5, **{"perf/tokens_per_s": 1000.0}))
    assert progress.tokens_per_s == pytest.approx(1000.0)
    assert progress.padding == pytest.approx(300 / 700)
    assert progress.seconds_left == pytest.approx(98 * 0.2)


def test_the_panel_shows_progress_speed_health_and_warnings() -> None:
    progress = RunProgress()
    for event in (attempt_event(), *(step_event(step) for step in range(1, 31))):
        progress.add(event)
    text = shown(progress)
    for part in ("demo", "step 30 of 100", "epoch 2 of 4", "0.0333", "12,346 valid tokens/s", "12.5 %", "left 0:07"):
        assert part in text, text
    assert "MFU" not in text and "node" not in text
    assert "zero-shot" not in text
    progress.add({"kind": "scores", "step": 25, "time": 0.0, "metrics": {"eval/nmse_db/avg": -2.5}})
    assert "zero-shot NMSE -2.50 dB  ·  step 25" in shown(progress)
    values = {"val/loss": 0.25, "val/nmse_db/avg": -6.0, "eval/nmse_db/avg": -3.0}
    progress.add({"kind": "scores", "step": 30, "time": 0.0, "metrics": values})
    assert "validation loss 0.2500, NMSE -6.00 dB; zero-shot NMSE -3.00 dB  ·  step 30" in shown(progress)
    progress.add(system_event("n1", 0.0, cpu_utilization_percentage=5.0))
    assert "CPU" in shown(progress) and "GPU" not in shown(progress)
    progress.add(step_event(31, **{"perf/mfu": 0.371}))
    progress.add({"kind": "warning", "time": 0.0, "text": "checkpoint [7] is damaged"})
    progress.add(system_event("n1", 90.0, cpu_utilization_percentage=71.2, gpu_0_utilization_percentage=90.0))
    progress.add(system_event("n2", 20.0, gpu_0_utilization_percentage=50.0, gpu_1_utilization_percentage=70.0))
    text = shown(progress, now=200.0, state="PENDING (Resources)")
    for part in (
        "MFU 37.1 %",
        "checkpoint [7] is damaged",
        "71 %",
        "90 %",
        "60 %",
        "110 s ago",
        "180 s ago",
        "PENDING",
    ):
        assert part in text, text


def test_a_new_attempt_forgets_speed_and_nodes_but_not_the_loss() -> None:
    progress = RunProgress()
    for event in (attempt_event(), step_event(1), step_event(2), system_event("n1", 1.0, cpu=1.0), attempt_event(1)):
        progress.add(event)
    assert (progress.step, progress.attempts, progress.nodes, progress.last) == (1, 2, {}, {})
    assert progress.losses.points == [1.0, 0.5]
    assert "attempt 2" in shown(progress) and "waiting for the first step" in shown(progress)


def test_a_trace_stays_short_and_keeps_its_ends() -> None:
    trace = Trace()
    for number in range(10 * TRACE_LENGTH):
        trace.add(float(number))
    trace.add(float("nan"))
    assert TRACE_LENGTH / 2 <= len(trace.points) < TRACE_LENGTH
    assert trace.points[0] < 20 and trace.points[-1] > 10 * TRACE_LENGTH - 20
    assert trace.points == sorted(trace.points)


def test_a_sparkline_falls_with_the_loss() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([5.0], 10) == "▁"
    assert sparkline([8.0, 4.0, 2.0, 1.0], 10) == "█▆▃▁"
    line = sparkline([1.0 / number for number in range(1, 1000)], 40)
    assert len(line) == 40 and line[0] == "█" and line[-1] == "▁"


def on_terminal(show: Any) -> str:
    """What a terminal receives while ``show(stream)`` runs."""
    leader, follower = pty.openpty()
    parts: list[bytes] = []

    def collect() -> None:
        while True:
            try:
                parts.append(os.read(leader, 65536))
            except OSError:
                return

    reader = threading.Thread(target=collect)
    reader.start()
    with os.fdopen(follower, "w") as stream:
        show(stream)
    reader.join()
    os.close(leader)
    return b"".join(parts).decode()


def test_on_a_terminal_the_panel_is_redrawn_and_the_cursor_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def show(stream: Any) -> None:
        view = LiveView(title="demo", stream=stream)
        view.update([attempt_event()])
        for step in range(1, 4):
            view.update([step_event(step)])
        view.say("a line [that] stays")
        view.update([])
        view.close()

    text = on_terminal(show)
    assert "step 1 of 100" in text and "step 3 of 100" in text
    assert "a line [that] stays" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    def show(stream: Any) -> None:
        view = LiveView(stream=stream)
        view.update([attempt_event(), step_event(1)])
        view.close()

    text = on_terminal(show)
    assert "\x1b" not in text and "step 1/100" in text


def test_the_tail_of_a_long_file_keeps_its_attempt(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as events:
        events.write("attempt", total_steps=5)
        for step in range(100):
            events.write("step", step=step)
    found, offset = read_tail(path, most=300)
    assert found[0]["total_steps"] == 5 and found[-1]["step"] == 99 and len(found) < 10
    assert read_events(path, offset) == ([], path.stat().st_size)
    assert read_tail(path) == read_events(path)
    assert read_tail(tmp_path / "none") == ([], 0)


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 61, 3600)] == ["0:00", "1:01", "1:00:00"]
