"""What a run saves of itself and goes on from: when a state is due, what it says, how a start takes it up."""

import math
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch.distributed as dist

from orchestrator.checkpoint import format as checkpoints
from orchestrator.checkpoint.disk_space import shortage
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.memory_keeper import open_memory
from orchestrator.checkpoint.writer import CheckpointWriter, Saved
from orchestrator.run import exports
from orchestrator.run.folder import RunDirectory
from orchestrator.run.rank_events import RankEvents
from orchestrator.run.signals import SILENCE, Signals
from orchestrator.spec.job import JobSpec
from orchestrator.training.engine import TrainingEngine
from orchestrator.training.resume import load_newest
from orchestrator.training.totals import Progress
from samplers.batches import ScheduledBatches

REQUEST_POLL_S = 0.5
RESIZE_PATIENCE_S = 60.0


class RunState(AbstractContextManager["RunState"]):
    """Saving and resuming on one rank; every rank makes the same calls after the same steps.

    batches, progress: what a state says of the run beside the weights. events: forced to the disk before a state is
    saved, which must not be ahead of them. memory: folder in the machine's memory for the newest states.
    """

    def __init__(
        self,
        directory: RunDirectory,
        job: JobSpec,
        engine: TrainingEngine,
        batches: ScheduledBatches,
        progress: Progress,
        events: RankEvents,
        memory: Path | None = None,
    ) -> None:
        self._directory, self._job, self._events = directory, job, events
        self._batches, self._progress = batches, progress
        self._rank, self._world = engine.rank, engine.world
        self._is_warned = False
        self._wanted = SILENCE
        self._requests_checked = -math.inf
        self._last_saved = time.monotonic()
        self._state = TrainingState(engine.deepspeed, engine.rank, engine.world)
        self._memory, no_memory = open_memory(memory, self._state, self._rank, self._world, engine.device)
        if memory is not None and no_memory is not None:
            events.emit("note", text=f"no state is kept in memory: {no_memory}")
        self._versions, self._fingerprint = checkpoints.versions(), job.fingerprint
        self._writer = CheckpointWriter(
            self._state,
            directory.checkpoints,
            keep=job.checkpoint.keep,
            device=engine.device,
            spared=self._spared_steps,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)

    def resume(self, skipped_steps: Collection[int]) -> None:
        """Take up the newest complete state, if there is one (collective). skipped_steps: that count for nothing.

        Raises:
            UserError: it does not fit the job.
        """
        kept = self._memory.machines if self._memory else None
        info = load_newest(self._directory, self._job, self._state, self._batches, self._events, kept)
        if info is None:
            return
        if self._memory is not None:
            self._memory.go_on_from(info)
        self._progress.step, self._progress.train_seconds = info.step, info.train_seconds
        epoch, step = self._batches.cursor
        first = info.step - step
        trained = [done for done in range(step) if first + done not in skipped_steps]
        schedule, world = self._batches.schedule, self._batches.world
        slices = (schedule.rank_step(epoch, done, self._batches.rank, world) for done in trained)
        self._progress.epoch.resume(info.epoch_totals, slices)

    def signals(self) -> Signals:
        """What this rank says with the next step; when to stop or save is rank 0's to decide."""
        written, unwritten = self._writer.signals()
        minutes = self._job.checkpoint.every_minutes
        late = minutes is not None and time.monotonic() - self._last_saved >= 60 * minutes
        stop, pause = self._requests()
        return Signals(stop, save=self._rank == 0 and late, pause=pause, written=written, unwritten=unwritten)

    def after_step(self, agreed: Signals, *, finished: bool, running: int = 0) -> bool:
        """Save if it is time; whether training stood still for it.

        running: later steps under way; what ranks ask for waits until there are none.
        """
        self._report(self._writer.advance(agreed))
        self._wanted = Signals(*np.maximum(self._wanted.values(), agreed.values()).tolist())
        if running:
            return False
        kept = not finished and self._memory is not None and self._memory.is_due(self._progress.step)
        if kept and self._memory is not None:
            self._memory.save(self._info())
        if not (finished or self._is_due()):
            return kept
        wanted, self._wanted = self._wanted, SILENCE
        self._save()
        if wanted.pause and not (finished or wanted.stop):
            self._wait_for_resize()
        return True

    def agree(self) -> None:
        """After :meth:`after_step`: how often states are kept in memory from now on (collective, now and then)."""
        if self._memory is not None:
            self._memory.agree()

    def is_planned(self, step: int, ended: int | None) -> bool:
        """Whether the state after so many steps is saved or kept in memory whatever ranks say; ended: the epoch that
        ends there."""
        return self._is_saved(step, ended) or (self._memory is not None and self._memory.is_due(step))

    def _is_saved(self, step: int, ended: int | None) -> bool:
        if self._job.checkpoint.keep_best and ended is not None and self.is_scored(ended):
            return True
        every = self._job.checkpoint.every_steps
        return every is not None and step % every == 0

    def finish(self) -> None:
        """Wait until nothing is being written."""
        self._report(self._writer.finish())

    def is_scored(self, epoch: int) -> bool:
        """Whether the model after an epoch is scored beside the training (the last one is scored at the end)."""
        every = self._job.evaluation.every_epochs
        return every is not None and (epoch + 1) % every == 0 and epoch + 1 < self._batches.schedule.epochs

    def _is_due(self) -> bool:
        epoch, step = self._batches.cursor
        return self._wanted.ask_to_save or self._is_saved(self._progress.step, epoch - 1 if step == 0 else None)

    def _requests(self) -> tuple[bool, bool]:
        """(stop, pause): rank 0 looks for requests now and then; the step's reduction hands them on."""
        if self._rank != 0 or time.monotonic() - self._requests_checked < REQUEST_POLL_S:
            return False, False
        self._requests_checked = time.monotonic()
        return self._directory.stop_request.exists(), self._directory.pause_request.exists()

    def _save(self) -> None:
        self._events.sync()
        run_id = self._directory.read_state().get("mlflow_run_id")
        self._report(self._writer.begin(replace(self._info(), mlflow_run_id=run_id)))
        self._last_saved = time.monotonic()

    def _info(self) -> checkpoints.CheckpointInfo:
        return checkpoints.CheckpointInfo(
            schema=checkpoints.SCHEMA,
            step=self._progress.step,
            optimizer_step=self._state.optimizer_step,
            seed=self._job.seed,
            world_size=self._world,
            zero_stage=self._job.train.zero_stage,
            fingerprint=self._fingerprint,
            sampler=self._batches.state_dict(),
            train_seconds=self._progress.train_seconds,
            epoch_totals=self._progress.epoch.saved,
            mlflow_run_id=None,
            versions=self._versions,
            files={},
        )

    def _wait_for_resize(self) -> None:
        """Say that the state is complete and wait to be replaced; go on if nobody comes."""
        self.finish()
        if self._rank == 0:
            self._directory.pause_request.replace(self._directory.paused)
            deadline = time.monotonic() + RESIZE_PATIENCE_S
            while time.monotonic() < deadline and not self._directory.stop_request.exists():
                time.sleep(REQUEST_POLL_S / 5)
            self._directory.paused.unlink(missing_ok=True)
        dist.barrier()

    def _report(self, ended: list[Saved]) -> None:
        for saved in ended:
            if saved.problem is None:
                metrics = {"perf/checkpoint_stall_ms": saved.stall_ms, "perf/checkpoint_write_ms": saved.write_ms}
                self._events.emit("checkpoint", step=saved.step, metrics=metrics)
                self._check_space(saved.step)
            else:
                text = f"NO checkpoint at step {saved.step}: {saved.problem}; the run goes on from the one before it"
                self._events.emit("warning", text=text, step=saved.step, metrics={"health/checkpoint_failed": 1.0})

    def _check_space(self, step: int) -> None:
        """Rank 0 warns once before the disk of the checkpoints is full."""
        path = self._directory.checkpoints / checkpoints.folder_name(step)
        problem = shortage(path) if self._rank == 0 and not self._is_warned and path.exists() else None
        if problem is not None:
            self._is_warned = True
            self._events.emit("warning", text=f"the disk is nearly full: {problem}", step=step)

    def _spared_steps(self) -> set[int]:
        """Of the best state and of those that may become it: their exports are not scored yet."""
        if not self._job.checkpoint.keep_best:
            return set()
        # In this order: an export goes only after its score is kept where it is the best.
        waiting = set(map(exports.step_of, exports.waiting_exports(self._directory)))
        best = exports.best_so_far(self._directory)
        return waiting | ({best.step} if best else set())
