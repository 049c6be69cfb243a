"""``wavetrain ui``: by which names a browser may call it, and what is said when."""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

from channels.errors import UserError
from jobs.cli import ui_server
from jobs.cli.ui_server import HOSTS, ORIGINS, address_of, allowed, check_port, own_addresses, own_names, serve
from tests.ports import held_port

SERVER = """
import http.server, os, sys, time
deadline = time.monotonic() + 60
while not os.path.exists(sys.argv[2]):
    if time.monotonic() > deadline: sys.exit("nothing is said")
    time.sleep(0.01)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).handle_request()
"""


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as port:
        yield port


def answers(bind: str, host: str, port: int = 5000) -> bool:
    """Whether MLflow answers a browser that calls a server of this bind by this name, also when it posts."""
    settings = allowed(own_names(bind), port)
    origins = settings[ORIGINS].split(",")
    return is_allowed_host_header(settings[HOSTS].split(","), host) and not should_block_cors_request(
        f"http://{host}", "POST", origins
    )


def test_every_name_of_this_machine_is_answered_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Login1")
    monkeypatch.setattr(socket, "getfqdn", lambda: "Login1.Cluster")
    monkeypatch.setattr(ui_server, "own_addresses", lambda: ["10.0.0.7", "2001:db8::7"])
    for host in ("login1", "login1.cluster", "10.0.0.7", "[2001:db8::7]", "localhost", "127.0.0.1", "[::1]"):
        assert answers("0.0.0.0", f"{host}:5000"), host
    assert not answers("0.0.0.0", "evil.example:5000") and not answers("0.0.0.0", "login1:81")
    assert answers("10.0.0.7", "10.0.0.7:5000") and not answers("10.0.0.7", "10.0.0.8:5000")
    assert answers("127.0.0.1", "localhost:8080"), "through a tunnel"
    assert not answers("127.0.0.1", "login1:5000")
    assert own_names("::")[0] == "login1"
    for host in ("login1", "10.0.0.7", "[2001:db8::7]", "localhost"):
        assert answers("0.0.0.0", host, port=80) and not answers("0.0.0.0", host, port=5000), host
    assert not answers("0.0.0.0", "evil.example", port=80)


def test_what_the_user_allows_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, "proxy.example")
    assert answers("127.0.0.1", "127.0.0.1:5000") and is_allowed_host_header(
        allowed(["a"], 1)[HOSTS].split(","), "proxy.example"
    )


def test_addresses_that_nobody_else_reaches_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    entries = [SimpleNamespace(family=family, address=address) for family, address in (
        (socket.AF_INET6, "fe80::1%eth0"), (socket.AF_INET6, "2001:db8::7"), (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "10.0.0.7"), (17, "aa:bb:cc:dd:ee:ff"))]  # fmt: skip
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": entries})
    assert own_addresses() == ["10.0.0.7", "2001:db8::7"]


def test_ports_of_both_families(port: int) -> None:
    check_port("127.0.0.1", port)
    check_port("0.0.0.0", port)
    if socket.has_ipv6:
        check_port("::1", port)
    assert address_of("::1", 5000) == "http://[::1]:5000"
    with closing(socket.create_server(("127.0.0.1", port))), pytest.raises(UserError, match="choose another port"):
        check_port("127.0.0.1", port)


@pytest.fixture
def _sigterm_restored() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm_restored")
def test_the_address_is_said_when_the_server_answers(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_server, "SAY_EVERY_S", 0.0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    said: list[str] = []
    awaited = tmp_path / "awaited"

    def say(text: str) -> None:
        said.append(text)
        awaited.touch()

    command = [sys.executable, "-c", SERVER, str(port), str(awaited)]
    assert serve(command, {}, f"http://127.0.0.1:{port}/health", say, ["here it is"]) == 0
    assert said[-1] == "here it is" and said[0].startswith("MLflow starts, ")
    said.clear()
    assert (
        serve([sys.executable, "-c", "raise SystemExit(3)"], {}, f"http://127.0.0.1:{port}/", said.append, ["x"]) == 3
    )
    assert "x" not in said, "a server that ends before it answers has no address"
