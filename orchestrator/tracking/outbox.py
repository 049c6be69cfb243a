"""What MLflow is to receive of a run, kept in the run's folder first: a dead server delays it and loses nothing.

The controller writes entries to ``tracking.jsonl``; steps and epochs lie in ``events.jsonl`` already.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.run.events import EventWriter, repair
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.yaml_files import flatten

if TYPE_CHECKING:
    from models.interface import Shape


class Outbox:
    """Takes what is meant for the MLflow run."""

    def __init__(self, directory: RunDirectory) -> None:
        repair(directory.tracking)
        self._folder = directory.path
        self._writer = EventWriter(directory.tracking)

    def begin(self, began_s: float, submitted_s: float | None) -> None:
        """A controller begins; MLflow has a time of its own. began_s, submitted_s: seconds since 1970."""
        self._writer.write("begin", time=began_s, submitted=submitted_s)

    def parameters(self, nested: Mapping[str, Any]) -> None:
        """The resolved spec."""
        self._writer.write("parameters", values={key: str(value) for key, value in flatten(nested).items()})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags (the last value counts)."""
        self._writer.write("tags", values=dict(tags))

    def metrics(self, values: Mapping[str, float], step: int, time_s: float) -> None:
        """Metrics of one step."""
        self._writer.write("metrics", values=dict(values), step=step, time_s=time_s)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file of the run's folder; it must stay there."""
        self._writer.write("artifact", path=os.path.relpath(path, self._folder), folder=folder)

    def dataset(self, name: str, digest: str, source: str, profile: str, context: str) -> None:
        """Which data the run uses."""
        self._writer.write("dataset", values=[name, digest, source, profile, context])

    def model(self, export: Path, name: str, shape: "Shape") -> None:
        """A model for the registry, exported into the run's folder. shape: (T, K, A) of its input example."""
        self._writer.write("model", path=os.path.relpath(export, self._folder), name=name, shape=list(shape))

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._writer.write("end", status=status)
        self._writer.sync()

    def close(self) -> None:
        """No more entries."""
        self._writer.__exit__(None, None, None)
