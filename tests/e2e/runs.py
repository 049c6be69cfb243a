"""Starting real runs in processes of their own, and looking at what they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.spec.job import JobSpec
from tests.attempts import prepare, work
from tests.jobs_for_tests import small_job
from tests.ranks import RankPools

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 600
EPOCHS = 10
STEPS = 12 * EPOCHS


@dataclass
class Place:
    """A working directory with a job spec; runs go to ``runs/`` in it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    """More variables for the commands."""
    user: str | None = None
    """Who gives them, by name, if not the tests' own user (root alone may choose)."""
    python: str = sys.executable

    def spec(self, job: JobSpec) -> Path:
        """Write a job spec."""
        path = self.folder / f"{job.name}.yaml"
        path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of ``wavetrain`` in the folder."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.environment}
        return subprocess.Popen(
            [self.python, "-m", "jobs.cli.main", *arguments],
            cwd=self.folder, env=environment, text=True, user=self.user, group=self.user,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str, timeout_s: float = RUN_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*arguments)
        try:
            out, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, error = process.communicate()
            raise AssertionError(f"{arguments} did not end:\n{out}\n{error}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def directory(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / name

    def event_lines(self, name: str) -> list[str]:
        """Whole lines of a run's events, as they are written."""
        path = self.directory(name) / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]

    def events(self, name: str, kind: str = "step") -> list[dict[str, Any]]:
        """A run's events of a kind."""
        events = [json.loads(line) for line in self.event_lines(name) if f'"{kind}"' in line]
        return [event for event in events if event["kind"] == kind]

    def wait_for_step(self, name: str, step: int, process: subprocess.Popen[str], kind: str = "step") -> None:
        """Return once an event of a step has been logged."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not any(event["step"] >= step for event in self.events(name, kind)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"no {kind} {step}"
            time.sleep(0.02)

    def losses(self, name: str) -> dict[int, float]:
        """Loss by step; a step that was repeated must have repeated its loss."""
        losses: dict[int, float] = {}
        for event in self.events(name):
            loss = event["metrics"]["train/loss"]
            assert losses.setdefault(event["step"], loss) == loss, event["step"]
        return losses

    def weights(self, name: str) -> bytes:
        """The exported weights, to the byte."""
        return (self.directory(name) / "model" / "model.safetensors").read_bytes()

    def state(self, name: str) -> dict[str, Any]:
        """``state.json``."""
        return json.loads((self.directory(name) / "state.json").read_text())

    def tracked(self, name: str) -> Any:
        """The MLflow run."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'runs' / 'mlflow.db'}")
        return client.get_run(self.state(name)["mlflow_run_id"])

    def history(self, name: str, metric: str, uri: str | None = None) -> list[tuple[int, float]]:
        """(step, value) of a metric in MLflow, the local one unless another is given."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri or f"sqlite:///{self.folder / 'runs' / 'mlflow.db'}")
        points = client.get_metric_history(self.state(name)["mlflow_run_id"], metric)
        return sorted((point.step, point.value) for point in points)


def job_for(store: Path, name: str, **sections: Any) -> JobSpec:
    """A job of ``EPOCHS`` epochs and ``STEPS`` steps, long enough to be killed on the way."""
    training = {"train": {"epochs": EPOCHS, "lr": 1e-3, "warmup_epochs": 0.5}, "checkpoint": {"every_steps": 7}}
    return small_job(store, name, **(training | sections))


def train_without_ray(directory: Path, job: JobSpec, ranks: RankPools, world: int) -> None:
    """Train a job in plain ranks, to its exported weights: what its run must equal, wherever that is launched."""
    prepare(directory, job)
    assert ranks(world, work, str(directory)) == ["finished"] * world


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process and everything it started."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def assert_all_gone(processes: list[psutil.Process], patience_s: float = 120.0) -> None:
    """No process of a run is left."""
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, left


def processes_with(word: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those with a word in their command line."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if any(word in part for part in process.cmdline()):
                found.append(process)
    return found


def training_ranks(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that train, as Ray names them."""
    return processes_with("RayTrainWorker", processes)


def session_folders(processes: list[psutil.Process]) -> list[Path]:
    """Temporary folders of runs, in which their Ray has its own."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            options = [option.partition("=") for option in process.cmdline()]
            found |= {Path(value).parent for name, _, value in options if name in ("--temp-dir", "--temp_dir")}
    return sorted(found)


@contextmanager
def at_rest(ranks: list[psutil.Process]) -> Iterator[None]:
    """Ranks make no step inside the ``with``, so that what is done there may take as long as it takes."""
    with ExitStack() as resting:
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.suspend()
                resting.callback(resume, rank)
        assert any(rank.is_running() for rank in ranks), "no rank is there any more"
        yield


def resume(process: psutil.Process) -> None:
    """Let it go on, if it is there."""
    with suppress(psutil.NoSuchProcess):
        process.resume()
