"""An MLflow server in processes of its own, which may be killed and started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_S = 180
STOP_S = 10
RUNS_FOLDER = "WAVETRAIN_TEST_FOLDER"


class MlflowServer:
    """Over a database of its own in a folder, on loopback; it keeps its port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._folder.mkdir()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Until it answers."""
        import requests

        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = subprocess.DEVNULL
        # It belongs to no run, so that looks for what runs leave behind pass over it.
        environment = {name: value for name, value in os.environ.items() if name != RUNS_FOLDER}
        # Nobody asks it for jobs, whose queue it would leave in shared memory.
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        self._process = subprocess.Popen(
            command, cwd=self._folder, env=environment, start_new_session=True, stdout=quiet, stderr=quiet
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                requests.get(f"{self.uri}/health", timeout=2).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError("the MLflow server does not answer")

    def stop(self) -> None:
        """End it and its workers."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
