"""What keeps the speed of the machine, and what else runs on it, out of the outcome of tests."""

import socket
from contextlib import closing

import pytest
from hypothesis import HealthCheck, settings

from tests.ports import held_port


def test_no_example_of_a_property_test_is_too_slow() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None and HealthCheck.too_slow in settings.default.suppress_health_check


def test_a_held_port_is_for_servers_that_name_it() -> None:
    with held_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with closing(socket.create_server(("127.0.0.1", port))), closing(socket.create_connection(("127.0.0.1", port))):
            pass
