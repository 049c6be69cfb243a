"""What a run saves of itself and goes on from: when a state is due, what it says, how a start takes it up."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch.distributed as dist

from channels.errors import UserError
from orchestrator.checkpoint import format as checkpoints
from orchestrator.checkpoint.disk_space import shortage
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.writer import CheckpointWriter, Saved
from orchestrator.control.scoring import best_so_far, step_of
from orchestrator.run.folder import RunDirectory
from orchestrator.run.signals import SILENCE, Signals
from orchestrator.spec.job import JobSpec
from orchestrator.training.engine import TrainingEngine
from samplers.batches import ScheduledBatches

REQUEST_POLL_S = 0.5
RESIZE_PATIENCE_S = 60.0


@dataclass
class Progress:
    """What a rank knows of the run so far."""

    step: int = 0
    """Optimizer steps done."""
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    padded: int = 0
    own_padded: int = 0
    """Tokens this rank computed in this epoch and attempt, padding included; ``padded`` is of all ranks."""
    valid: int = 0
    wait_seconds: float = 0.0
    requests_checked: float = -math.inf
    saved: float = field(default_factory=time.monotonic)
    """When the last training state was taken."""


class RunState(AbstractContextManager["RunState"]):
    """Saving and resuming on one rank; every rank makes the same calls after the same steps.

    emit: writes an event, on rank 0. before_saving: forces to the disk what the saved state must not be ahead of.
    """

    def __init__(
        self,
        directory: RunDirectory,
        job: JobSpec,
        engine: TrainingEngine,
        batches: ScheduledBatches,
        progress: Progress,
        *,
        emit: Callable[..., None],
        before_saving: Callable[[], None],
    ) -> None:
        self._directory, self._job, self._batches, self._progress = directory, job, batches, progress
        self._rank, self._world = engine.rank, engine.world
        self._emit, self._before_saving = emit, before_saving
        self._is_warned = False
        self._asked = SILENCE
        self._state = TrainingState(engine.deepspeed, engine.rank, engine.world)
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

    def resume(self) -> bool:
        """Take up the newest complete state; whether there was one.

        Raises:
            UserError: it does not fit the job.
        """
        choice: list[Any] = [None]
        if self._rank == 0:
            checkpoints.remove_unfinished(self._directory.checkpoints)
            self._directory.pause_request.unlink(missing_ok=True)
            self._directory.paused.unlink(missing_ok=True)
            warn = lambda text: self._emit("warning", text=text)  # noqa: E731
            found = checkpoints.newest_complete(self._directory.checkpoints, warn)
            checkpoints.set_aside_newer(self._directory.checkpoints, found and found[0])
            choice = [found]
        dist.broadcast_object_list(choice)
        if choice[0] is None:
            return False
        path, info = choice[0]
        checkpoints.load(self._state, path, info, self._job.fingerprint)
        self._note_change("ranks", info.world_size, self._world)
        self._note_change("ZeRO stage", info.zero_stage, self._job.train.zero_stage)
        self._batches.load_state_dict(info.sampler)
        self._check_cursor(path, info.step)
        progress = self._progress
        progress.step, progress.train_seconds = info.step, info.train_seconds
        progress.epoch_seconds, progress.padded, progress.valid = info.epoch_totals
        return True

    def signals(self) -> Signals:
        """What this rank has to say in the next step; when to stop or save is rank 0's to decide."""
        written, unwritten = self._writer.signals()
        minutes = self._job.checkpoint.every_minutes
        late = minutes is not None and time.monotonic() - self._progress.saved >= 60 * minutes
        stop, pause = self._requests()
        return Signals(stop, save=self._rank == 0 and late, pause=pause, written=written, unwritten=unwritten)

    def after_step(self, agreed: Signals, *, finished: bool, running: int = 0) -> bool:
        """Save if it is time; whether training stood still for it.

        running: later steps under way; what was asked for waits until there are none.
        """
        self._report(self._writer.advance(agreed))
        self._asked = Signals(*np.maximum(self._asked.values(), agreed.values()).tolist())
        if running or not (finished or self._is_due()):
            return False
        asked, self._asked = self._asked, SILENCE
        self._save()
        if asked.pause and not (finished or asked.stop):
            self._wait_for_resize()
        return True

    def is_planned(self, step: int, ended: int | None) -> bool:
        """Whether the state after so many steps is saved whatever ranks say; ended: the epoch that ends there."""
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
        return self._asked.ask_to_save or self.is_planned(self._progress.step, epoch - 1 if step == 0 else None)

    def _requests(self) -> tuple[bool, bool]:
        """(stop, pause): rank 0 looks for requests now and then; the step's reduction tells the others."""
        if self._rank != 0 or time.monotonic() - self._progress.requests_checked < REQUEST_POLL_S:
            return False, False
        self._progress.requests_checked = time.monotonic()
        return self._directory.stop_request.exists(), self._directory.pause_request.exists()

    def _save(self) -> None:
        progress = self._progress
        self._before_saving()
        info = checkpoints.CheckpointInfo(
            schema=checkpoints.SCHEMA,
            step=progress.step,
            optimizer_step=self._state.optimizer_step,
            seed=self._job.seed,
            world_size=self._world,
            zero_stage=self._job.train.zero_stage,
            fingerprint=self._job.fingerprint,
            sampler=self._batches.state_dict(),
            train_seconds=progress.train_seconds,
            epoch_totals=(progress.epoch_seconds, progress.padded, progress.valid),
            mlflow_run_id=self._directory.read_state().get("mlflow_run_id"),
            versions=checkpoints.versions(),
            files={},
        )
        self._report(self._writer.begin(info))
        progress.saved = time.monotonic()

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
                self._emit("checkpoint", step=saved.step, metrics=metrics)
                self._check_space(saved.step)
            else:
                text = f"NO checkpoint at step {saved.step}: {saved.problem}; the run goes on from the one before it"
                self._emit("warning", text=text, step=saved.step, metrics={"health/checkpoint_failed": 1.0})

    def _check_space(self, step: int) -> None:
        """Rank 0 warns once before the disk of the checkpoints is full."""
        path = self._directory.checkpoints / checkpoints.folder_name(step)
        problem = shortage(path) if self._rank == 0 and not self._is_warned and path.exists() else None
        if problem is not None:
            self._is_warned = True
            self._emit("warning", text=f"the disk is nearly full: {problem}", step=step)

    def _note_change(self, what: str, before: int, now: int) -> None:
        if before != now:
            text = f"{what}: {before} at the checkpoint, {now} now; same batches, numbers equal up to rounding"
            self._emit("note", text=text)

    def _check_cursor(self, path: Path, step: int) -> None:
        """Steps that are done and the place in the schedule say the same."""
        epoch, step_of_epoch = self._batches.cursor
        done = sum(map(self._batches.schedule.steps, range(epoch))) + step_of_epoch
        if done != step:
            what = f"{step} steps are done, but the cursor says {done}"
            raise UserError(what, where=str(path), mend="remove this checkpoint")

    def _spared_steps(self) -> set[int]:
        """Of the best state and of those that may become it: their exports are not scored yet."""
        if not self._job.checkpoint.keep_best:
            return set()
        # In this order: an export goes only after its score is kept where it is the best.
        waiting = {step_of(path) for path in self._directory.exports.glob("step-*")}
        best = best_so_far(self._directory)
        return waiting | ({best[0]} if best else set())
