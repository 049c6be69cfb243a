"""Commands of the documentation that serve until they are interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.docs.pages import ROOT
from tests.ports import held_port

pytestmark = pytest.mark.docs
TIMEOUT_S = 120


def test_the_user_interface_answers(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "runs").mkdir()
    MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").create_experiment("wavetrain")
    with held_port() as port:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli.main", "ui", "--port", str(port),
             "--cluster-file", f"{ROOT}/cluster.yaml"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
        try:
            page = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/search?max_results=5"
            assert "wavetrain" in wait_for(page, process)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> str:
    """The text of a page, once it is there."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            answer = requests.get(url, timeout=5)
            answer.raise_for_status()
            return answer.text
        except requests.RequestException:
            assert time.monotonic() < deadline and server.poll() is None, url
            time.sleep(0.5)
