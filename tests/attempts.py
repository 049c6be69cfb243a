"""A run in plain ranks, without a controller and without Ray."""

from pathlib import Path

from channels.files import write_json
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec


def prepare(folder: Path, job: JobSpec) -> RunDirectory:
    """The folder of a run that has not begun."""
    folder.mkdir(parents=True)
    directory = RunDirectory(folder)
    write_json(directory.spec, job.model_dump(mode="json"))
    return directory


def work(folder: str, memory: str | None = None) -> str:
    """One attempt of a worker, on the rank that calls it. memory: folder for the newest states; None: none."""
    from orchestrator.training.build import build
    from orchestrator.training.worker import train

    return train(build(WorkerConfig(Path(folder), "cpu"), memory=Path(memory) if memory else None))
