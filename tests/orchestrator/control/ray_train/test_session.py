"""Ray's start in our process: whose signals they are."""

import inspect
import os
import signal

from ray._private import utils

from orchestrator.control.ray_train.sigterm import sigterm_kept
from orchestrator.control.stop_request import StopRequest


def test_a_signal_while_ray_starts_is_ours() -> None:
    """Ray installs its handler early in its start, which takes seconds more."""
    replaced = utils.set_sigterm_handler
    with StopRequest().installed() as stop:
        with sigterm_kept():
            utils.set_sigterm_handler(lambda number, frame: os._exit(15))
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is stop
    assert utils.set_sigterm_handler is replaced


def test_ray_still_installs_its_handler_by_this_function() -> None:
    """Where Ray does it in another way, the test above says nothing."""
    from ray._private import worker

    assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(worker)
