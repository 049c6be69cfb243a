"""Who is gone: connections between the nodes of a job."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from jobs.node.keepalive import KeepaliveClient, KeepaliveServer, greeting, probing
from jobs.node.port_window import PortWindow, claim

SECRET = "a secret"


@pytest.fixture
def window() -> PortWindow:
    return claim("127.0.0.1", 7, 0)


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def hold_on(port: int) -> None:
    client = KeepaliveClient(("127.0.0.1", port), SECRET, 2, 20)
    while not client.is_lost():
        time.sleep(0.05)


def test_a_killed_node_is_found_and_the_others_are_not(window: PortWindow) -> None:
    server = KeepaliveServer(window.guard, SECRET, 20)
    stays = KeepaliveClient(("127.0.0.1", window.first), SECRET, 1, 20)
    other = multiprocessing.get_context("spawn").Process(target=hold_on, args=(window.first,))
    other.start()
    wait_for(lambda: server.lost() == [] and server.connected() == [1, 2])
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    wait_for(lambda: server.lost() == [2])
    assert not stays.is_lost()
    server.close()
    wait_for(stays.is_lost)
    window.release()
    other.join()


@pytest.mark.parametrize(("silence_s", "between"), [(20, 5), (120, 30), (4, 1)])
def test_a_silent_machine_is_given_up_after_the_time_that_is_set(silence_s: int, between: int) -> None:
    assert list(probing(silence_s).values()) == [between, between, 3, 1000 * silence_s]


def test_who_does_not_know_the_secret_is_sent_away(window: PortWindow) -> None:
    server = KeepaliveServer(window.guard, SECRET, 20)
    for words in (greeting("another", 1), b"GET / HTTP/1.1".ljust(128), b"\xb2 ".ljust(128)):
        with socket.create_connection(("127.0.0.1", window.first)) as stranger:
            stranger.sendall(words)
            stranger.settimeout(0.05)
            wait_for(lambda stranger=stranger: server.lost() == [] and hangs_up(stranger))
    assert server.connected() == []
    server.close()
    window.release()


def hangs_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


def test_a_first_node_that_does_not_answer(window: PortWindow) -> None:
    window.release()
    with pytest.raises(OSError):
        KeepaliveClient(("127.0.0.1", window.first), SECRET, 1, 20)
