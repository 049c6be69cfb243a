"""Where MLflow's pages are served, by which names a browser may ask for them, and the server until it ends."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from channels.errors import UserError

POLL_S = 0.3
SAY_EVERY_S = 10.0
ANY = ("0.0.0.0", "::", "")
HOSTS, ORIGINS = "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
HTTP_PORT = 80
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_port(host: str, port: int) -> None:
    """Fail where something listens already.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        mend = "choose another port, or another network.bind in the cluster profile"
        raise UserError(f"port {port} on {host}: {error.strerror}", where="--port", mend=mend) from None


def own_names(bind: str) -> list[str]:
    """Names and addresses by which a browser may call a server that is bound to an address, those for others first."""
    if bind in LOOPBACK:
        return list(dict.fromkeys((bind, *LOOPBACK)))
    addresses = own_addresses() if bind in ANY else [bind]
    # A browser asks in small letters, and MLflow compares letter by letter.
    names = (socket.gethostname().lower(), socket.getfqdn().lower(), *addresses, *LOOPBACK)
    return list(dict.fromkeys(names))


def own_addresses() -> list[str]:
    """Addresses of this machine that others may reach, IPv4 first."""
    import psutil

    found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if _is_address(entry)]
    outside = [address for address in found if not _is_local(address)]
    return sorted(outside, key=lambda address: ":" in address)


def _is_address(entry: object) -> bool:
    return getattr(entry, "family", None) in (socket.AF_INET, socket.AF_INET6)


def _is_local(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_loopback or parsed.is_link_local


def address_of(host: str, port: int) -> str:
    """The address of pages; IPv6 in brackets."""
    return f"http://{_in_address(host)}:{port}"


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def allowed(names: Sequence[str], port: int) -> dict[str, str]:
    """What MLflow's server reads from its environment: the hosts and origins that it answers, and no others."""
    # A browser leaves the port out where it is that of http.
    ends = (f":{port}", "") if port == HTTP_PORT else (f":{port}",)
    hosts = [f"{_in_address(name)}{end}" for name in names for end in ends]
    origins = [f"http://{host}" for host in hosts]
    # Through a tunnel the port is another one.
    hosts += [f"{name}:*" for name in LOOPBACK if ":" not in name]
    given = {HOSTS: hosts, ORIGINS: origins}
    return {name: ",".join([*own, *filter(None, [os.environ.get(name)])]) for name, own in given.items()}


def serve(
    command: Sequence[str], environment: Mapping[str, str], probe: str, say: Callable[[str], None], ready: Sequence[str]
) -> int:
    """Run a server with its helpers in a process group of its own, which ends with this process; its exit code.

    probe: an address that answers as soon as the server does. ready: lines to say then.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    try:
        if _wait_for(probe, process, say):
            for line in ready:
                say(line)
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait_for(probe: str, process: subprocess.Popen[bytes], say: Callable[[str], None]) -> bool:
    """Whether the server answers before it ends."""
    # The server is on this machine, which a site's proxy (http_proxy) does not reach.
    direct = build_opener(ProxyHandler({}))
    began = said = time.monotonic()
    while process.poll() is None:
        try:
            with direct.open(probe, timeout=5):
                return True
        except HTTPError:
            return True
        except (URLError, OSError):
            time.sleep(POLL_S)
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            say(f"MLflow starts, {said - began:.0f} s so far ...")
    return False
