"""Weights of a run as files that need no engine to be read."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from models.export import save_model
from models.interface import ModelSpec
from orchestrator.run import exports
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import begun_options
from orchestrator.run.rank_events import RankEvents
from orchestrator.spec.job import JobSpec
from orchestrator.training.engine import TrainingEngine


@dataclass(frozen=True, slots=True)
class Exporter:
    """Every rank calls the same methods after the same steps (collective); rank 0 writes."""

    directory: RunDirectory
    job: JobSpec
    spec: ModelSpec
    engine: TrainingEngine
    events: RankEvents

    def export(self, folder: Path) -> None:
        """Write the weights as they are now."""
        weights = self.engine.full_weights()
        if self.engine.rank == 0:
            model = self.spec.build(self.job.seed)
            model.load_state_dict(weights)
            save_model(folder, self.job.model.name, begun_options(self.job, self.directory.initial), model)

    def export_for_scoring(self, step: int) -> None:
        """Leave the weights after so many steps where the controller looks for them; complete or not there."""
        started = time.perf_counter()
        folder = exports.export_folder(self.directory, step)
        self.export(exports.unfinished(folder))
        if self.engine.rank == 0:
            exports.publish(folder)
        # A rank that went on would wait in the next step, where its watchdog counts.
        dist.barrier()
        milliseconds = 1e3 * (time.perf_counter() - started)
        self.events.emit("export", step=step, metrics={"perf/export_stall_ms": milliseconds})
