"""Ray's start in our process: whose signals they are."""

import inspect
import os
import signal
import threading

import pytest
from ray import _raylet
from ray._private import utils, worker

from orchestrator.control.ray_train.sigterm import sigterm_kept
from orchestrator.control.stop_request import StopRequest


def install_and_stop() -> None:
    """As Ray's native worker: its handler would abort, at the latest when the alarm comes."""
    signal.alarm(100)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(6))
    # To this thread: the handler of this test is Python's, which runs here whichever thread gets the signal.
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


def test_a_signal_while_ray_starts_is_ours() -> None:
    replaced = utils.set_sigterm_handler
    with StopRequest().installed() as stop:
        with sigterm_kept():
            utils.set_sigterm_handler(lambda number, frame: os._exit(15))
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is stop
    assert utils.set_sigterm_handler is replaced


def test_a_signal_while_the_native_worker_comes_up_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_raylet, "CoreWorker", install_and_stop)
    with StopRequest().installed() as stop:
        with sigterm_kept():
            _raylet.CoreWorker()
            assert stop.signal == signal.SIGTERM and signal.alarm(0) == 0
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
        assert signal.getsignal(signal.SIGTERM) is stop
    assert _raylet.CoreWorker is install_and_stop


def test_what_ray_replaces_last_is_put_back() -> None:
    with StopRequest().installed() as stop:
        with sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is stop


def test_ray_still_installs_its_handlers_by_these_functions() -> None:
    """Where Ray does it in another way, the tests above say nothing."""
    source = inspect.getsource(worker)
    assert "ray._private.utils.set_sigterm_handler(" in source and "ray._raylet.CoreWorker(" in source
