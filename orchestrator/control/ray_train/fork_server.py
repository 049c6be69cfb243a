"""A process that has imported what workers need, and becomes one of them in a moment as often as it is asked to.

Ray starts a Python for every worker, which then imports torch, Ray Train and DeepSpeed for seconds of a core each. Here
``forked_worker.py``, which Ray starts in their place, asks this process to fork instead. Imports start no threads, so
that a fork is safe; a process that imports has neither a GPU nor a connection open. The collector of garbage rests
meanwhile, and what is imported stays in pages that all processes share.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.control.ray_train.forked_worker import SERVER, SOCKET, receive

BEFORE_RAY = ("deepspeed", "torch._dynamo", "orchestrator.training.worker", "orchestrator.control.scoring")
"""DeepSpeed and torch's compiler, which torch imports when the first optimizer is made, come late into a rank else."""
WITH_RAY = ("ray._private.workers.default_worker", "ray.train.torch", "orchestrator.control.ray_train.policies")
RAYLET = "RAY_RAYLET_PID"
ANY_JOB = {"RAY_JOB_ID": "ffffffff"}
"""What Ray starts workers with that may serve any job. Ray's library reads both variables when it is imported."""
SETTINGS = {"OMP_NUM_THREADS": "1"}
"""One thread for numpy's own linear algebra, as Ray sets it for a worker."""
STDIN = 0
LOG = "fork_server.log"
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main(*sys.argv[2:])"


def environment(folder: Path) -> dict[str, str]:
    """Where Ray's workers find the server of a session's folder."""
    return {SERVER: str(folder / SOCKET)}


def serves(device: str) -> bool:
    """Whether workers that compute there can be forked: libraries of a GPU may be opened by what is imported."""
    return device == "cpu"


def command(folder: Path, device: str) -> list[str]:
    """What starts it, with :data:`SETTINGS` and the environment of the workers' Ray; SIGTERM ends it.

    folder: where its socket lies. device: what the workers compute on.
    """
    code = START.format(module=__name__)
    return [sys.executable, "-P", "-c", code, json.dumps(sys.path), str(folder / SOCKET), device]


def start(folder: Path, device: str, settings: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start it; it ends when the returned process's ``stdin`` is closed. settings: environment of the workers' Ray."""
    with (folder / LOG).open("wb") as log:
        return subprocess.Popen(
            command(folder, device),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **settings, **SETTINGS},
        )


def main(path: str, device: str) -> None:
    """Import, then fork for whoever asks at a socket, until standard input ends if that is a pipe."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(128)
        _import_before_ray(device)
        # Nobody waits for the children: Ray watches over its workers by their connections.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _serve(server)


def _import_before_ray(device: str) -> None:
    from orchestrator.checkpoint.deepspeed_private import set_up_deepspeed

    gc.disable()
    set_up_deepspeed(device)
    for module in BEFORE_RAY:
        importlib.import_module(module)


def _import_ray(raylet: str) -> bool:
    """Import Ray for the workers of a raylet; False where that was done for another one."""
    if "ray" not in sys.modules:
        os.environ.update({RAYLET: raylet, **ANY_JOB})
        with _no_ids_drawn():
            for module in WITH_RAY:
                importlib.import_module(module)
        gc.freeze()
    return os.environ[RAYLET] == raylet


@contextmanager
def _no_ids_drawn() -> Iterator[None]:
    """Let actor classes, which are numbered when they are defined, not begin Ray's generator of ids.

    All forks would go on with its state, and draw the same ids.
    """
    from ray import actor

    own = actor.ActorClassID

    class FromSystem:
        @staticmethod
        def from_random() -> Any:
            return own(os.urandom(own.size()))

    actor.ActorClassID = FromSystem
    try:
        yield
    finally:
        actor.ActorClassID = own


def _serve(server: socket.socket) -> None:
    starter = [STDIN] if stat.S_ISFIFO(os.fstat(STDIN).st_mode) else []
    while True:
        ready, _, _ = select.select([server.fileno(), *starter], [], [])
        if server.fileno() not in ready:
            return
        connection, _ = server.accept()
        # Who asked may have been ended meanwhile; others will ask.
        with connection, suppress(ConnectionError):
            _answer(server, connection)


def _answer(server: socket.socket, connection: socket.socket) -> None:
    """Fork for one worker, if it is of the raylet that this process serves."""
    request, descriptors = receive(connection)
    fits = _import_ray(request["environment"].get(RAYLET, ""))
    if fits and os.fork() == 0:
        server.close()
        connection.close()
        _become(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(b"1" if fits else b"0")


def _become(request: Mapping[str, Any], descriptors: list[int]) -> NoReturn:
    """Run Ray's worker here as Python would have run it; the process ends with it."""
    code = 1
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A raylet ends the whole process group of a worker that is gone.
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update({**request["environment"], **ANY_JOB})
        os.chdir(request["folder"])
        sys.argv[:] = request["arguments"]
        gc.enable()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
