"""An MLflow server in processes of its own, which may be stopped and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.ports import held_port

START_S = 180
STOP_S = 10
RUNS_FOLDER = "WAVETRAIN_TEST_FOLDER"


class MlflowServer:
    """Over a database of its own in a folder, at a port of loopback; it is not started yet."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Until it answers."""
        import requests

        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        # It belongs to no run, so that looks for what runs leave behind pass over it.
        environment = {name: value for name, value in os.environ.items() if name != RUNS_FOLDER}
        # Nobody asks it for jobs, for which it would start many processes more and leave a queue in shared memory.
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        log = self._folder / "log"
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, start_new_session=True, stdout=stream, stderr=stream
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                requests.get(f"{self.uri}/health", timeout=2).raise_for_status()
                return
            except requests.RequestException:
                assert time.monotonic() < deadline and self._process.poll() is None, log.read_text()
                time.sleep(0.3)

    def stop(self) -> None:
        """End it and its workers as an administrator does."""
        self._signal(signal.SIGTERM)
        self.kill()

    def kill(self) -> None:
        """End them at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A server that answers, in a new folder; its port stays its own while it is stopped."""
    folder.mkdir()
    with held_port() as port:
        server = MlflowServer(folder, port)
        try:
            server.start()
            yield server
        finally:
            server.kill()
