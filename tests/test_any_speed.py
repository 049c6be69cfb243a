"""What keeps the speed of the machine, and what else runs on it, out of the outcome of tests."""

import socket
from contextlib import closing

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.ports import held_port

THREADS = 37
"""As many as no machine has for a test."""


def test_no_example_of_a_property_test_is_too_slow() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None and HealthCheck.too_slow in settings.default.suppress_health_check


@pytest.mark.parametrize("_", ["one", "the next"])
def test_threads_that_a_test_gives_torch_are_its_own(_: str) -> None:
    assert torch.get_num_threads() != THREADS
    torch.set_num_threads(THREADS)


def test_a_held_port_is_for_servers_that_name_it() -> None:
    with held_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with closing(socket.create_server(("127.0.0.1", port))), closing(socket.create_connection(("127.0.0.1", port))):
            pass
