"""Where the time of a step goes, as a line of the events says it."""

import importlib
import time
from typing import Any

import pytest

from orchestrator.checkpoint.deepspeed_private import EXCHANGES, around_exchanges
from orchestrator.monitoring.step_clock import ExchangeClock
from orchestrator.training import training_log
from orchestrator.training.training_log import LineTimes


def test_a_line_has_all_steps_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((13.5, 20.0))
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: next(now))
    times = LineTimes(_since=10.0)
    times.add(1.0, 0.25, 0.5)
    times.stand(0.125)
    times.add(2.0, 0.0, 0.5)
    assert times.take() == {"all_s": 3.5, "steps_s": 3.0, "wait_s": 0.25, "exchange_s": 1.0, "saving_s": 0.125}
    assert times.take() == {"all_s": 6.5, "steps_s": 0.0, "wait_s": 0.0, "exchange_s": 0.0, "saving_s": 0.0}


class Backend:
    """Collective operations that take ten milliseconds."""


def exchange(backend: Backend, value: int, scale: int = 1) -> int:
    time.sleep(0.01)
    return scale * value


for name in EXCHANGES:
    setattr(Backend, name, exchange)


def test_deepspeeds_exchanges_are_counted_by_the_engine_that_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = Backend()
    monkeypatch.setattr(importlib.import_module("deepspeed.comm.comm"), "cdb", backend)
    first, second = ExchangeClock(), ExchangeClock()
    around_exchanges(first.counted)
    around_exchanges(second.counted)
    assert [getattr(backend, name)(2, scale=3) for name in EXCHANGES] == [6] * len(EXCHANGES)
    assert second.take() >= 0.01 * len(EXCHANGES) and second.take() == first.take() == 0.0
