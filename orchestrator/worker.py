"""What every rank runs: build, resume, train step by step, save, stop when asked."""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from models.export import save_model
from models.registry import make_spec
from orchestrator import checkpoints
from orchestrator.accounting import StepWork, device_peak
from orchestrator.checkpoint_writer import CheckpointWriter, Saved
from orchestrator.config import JobSpec
from orchestrator.coverage import EpochCoverage, imbalance_of_ranks, sum_over_ranks
from orchestrator.data import open_training_data
from orchestrator.engine import StepResult, TrainingEngine
from orchestrator.events import EventWriter, repair
from orchestrator.failures import TrainingDivergedError
from orchestrator.fragments import TrainingState
from orchestrator.learning_rate import learning_rate
from orchestrator.loader import StepBatch, StepLoader
from orchestrator.node_monitor import NodeMonitor, gather_machines, watches
from orchestrator.placement import Placement, gather_node_group, make_placement
from orchestrator.planning import make_schedule
from orchestrator.rundir import RunDirectory
from orchestrator.scoring import best_so_far
from orchestrator.signals import Signals
from samplers.batches import ScheduledBatches
from samplers.permutation import root_key
from samplers.schedule import Schedule

Outcome = Literal["finished", "stopped"]
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
    requests_checked: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    """When the last training state was taken."""


def ray_worker(config: dict[str, str]) -> None:
    """Entry of a Ray Train worker."""
    torch.set_num_threads(int(config["threads"]))
    import ray

    cache = Path(config["cache"]) if config["cache"] else None
    directory = RunDirectory(Path(config["run"]))
    peak = float(config["peak_flops"]) if config["peak_flops"] else None
    node = ray.get_runtime_context().get_node_id()
    Worker(directory, device=config["device"], cache=cache, node=node, peak_flops=peak).run()


class Worker:
    """One rank of one attempt.

    cache: folder in node-local storage for copies of shards. node: Ray's id of the node, needed where copies are made.
    peak_flops: operations/s of the device as the cluster's profile states them.
    """

    def __init__(
        self,
        directory: RunDirectory,
        device: str,
        *,
        cache: Path | None = None,
        node: str | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self.directory = directory
        self.job: JobSpec = directory.read_spec()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.spec = make_spec(self.job.model.name, self.job.model.options)
        catalogue, self.data = open_training_data(
            self.job.data, self.spec, self.job.seed, packed=self.job.batching.packed
        )
        self.schedule: Schedule = make_schedule(self.job, catalogue, self.data.flops)
        self.batches = ScheduledBatches(self.schedule, self.rank, self.world)
        self.placement = self._place(cache, node)
        self.engine = TrainingEngine(
            self.spec.build(self.job.seed), self.job.train, device=device, tasks=len(self.spec.tasks)
        )
        peak = device_peak(self.engine.device.type, self.job.train.precision, peak_flops)
        self.peak_flops = None if peak is None else peak * self.world
        self.state = TrainingState(self.engine.deepspeed, self.rank, self.world)
        self.writer = CheckpointWriter(
            self.state,
            directory.checkpoints,
            keep=self.job.checkpoint.keep,
            device=self.engine.device,
            spared=self._best_step,
        )
        self.progress = Progress()
        self.coverage = EpochCoverage(catalogue)
        self.events: EventWriter | None = None

    def run(self) -> Outcome:
        """Train from the newest state to the end, or until asked to stop.

        Raises:
            TrainingDivergedError: a loss was not finite.
            UserError: the saved state does not fit the job.
        """
        with ExitStack() as stack:
            if self.rank == 0:
                repair(self.directory.events)
                self.events = stack.enter_context(EventWriter(self.directory.events))
            stack.enter_context(self.writer)
            self._resume()
            machines = gather_machines(platform.node())
            self._emit(
                "attempt", step=self.progress.step, world=self.world, total_steps=self.schedule.total_steps,
                epochs=self.job.train.epochs, device=str(self.engine.device), machines=list(dict.fromkeys(machines)),
            )  # fmt: skip
            self._watch_machine(stack, machines)
            for note in self.spec.notes(self.engine.device.type, self.data.packed):
                self._emit("note", text=note)
            loader = stack.enter_context(self._loader())
            outcome = self._train(loader)
            self.placement.close(finished=outcome == "finished")
            if outcome == "finished":
                self._export(self.directory.export)
            self._emit("end", step=self.progress.step, outcome=outcome, train_s=self.progress.train_seconds)
        dist.barrier()
        return outcome

    def _watch_machine(self, stack: ExitStack, machines: Sequence[str]) -> None:
        """One rank of each machine samples it until the attempt ends."""
        every_s = self.job.tracking.system_every_s
        if every_s and watches(machines, self.rank):
            machine = machines[self.rank]
            monitor = NodeMonitor(self.directory.system, machine, every_s, lambda: self.progress.step, self.events)
            stack.enter_context(monitor)

    def _place(self, cache: Path | None, node: str | None) -> Placement:
        section = self.job.data
        group = None if section.placement == "shared" or node is None else gather_node_group(node)
        return make_placement(
            section.placement,
            self.data.store,
            self.schedule,
            self.data.origins,
            rank=self.rank,
            world=self.world,
            group=group,
            cache=cache,
            capacity=section.cache_bytes,
            run=self.job.name,
        )

    def _loader(self) -> StepLoader:
        return StepLoader(
            self.data,
            self.batches,
            self.placement,
            micro_batch=self.job.batching.micro_batch,
            threads=self.job.train.loader_threads,
            prefetch=self.job.train.prefetch,
            pin_memory=self.engine.device.type == "cuda",
        )

    def _train(self, loader: StepLoader) -> Outcome:
        started = time.perf_counter()
        for batch in self._timed(loader):
            result = self._step(batch)
            now = time.perf_counter()
            self._account(batch, result, now - started)
            started = now
            finished = self.progress.step == self.schedule.total_steps
            self._report(self.writer.advance(result.signals))
            if finished or self._is_save_due(result.signals):
                self._save()
                if result.signals.pause and not (finished or result.signals.stop):
                    self._wait_for_resize()
                started = time.perf_counter()
            if result.signals.stop and not finished:
                break
        self._report(self.writer.finish())
        return "finished" if self.progress.step == self.schedule.total_steps else "stopped"

    def _timed(self, loader: StepLoader) -> Iterator[StepBatch]:
        steps = iter(loader)
        while True:
            waited = time.perf_counter()
            batch = next(steps, None)
            self.progress.wait_seconds = time.perf_counter() - waited
            if batch is None:
                return
            yield batch

    def _step(self, batch: StepBatch) -> StepResult:
        position = batch.epoch + batch.step / self.schedule.steps(batch.epoch)
        self.lr = self._rate(position)
        torch.manual_seed(root_key("step", self.job.seed, self.progress.step, self.rank) & (2**63 - 1))
        try:
            return self.engine.step(batch, self.job.seed, self.lr, self._signals())
        except TrainingDivergedError as error:
            self._emit("diverged", step=self.progress.step, cause=str(error))
            raise

    def _rate(self, position: float) -> float:
        train = self.job.train
        return learning_rate(
            position, peak=train.lr, floor=train.min_lr, warmup=train.warmup_epochs, total=float(train.epochs)
        )

    def _signals(self) -> Signals:
        """What this rank has to say in the next step; when to stop or save is rank 0's to decide."""
        written, unwritten = self.writer.signals()
        minutes = self.job.checkpoint.every_minutes
        late = minutes is not None and time.monotonic() - self.progress.saved >= 60 * minutes
        stop, pause = self._requests()
        return Signals(stop, save=self.rank == 0 and late, pause=pause, written=written, unwritten=unwritten)

    def _is_save_due(self, agreed: Signals) -> bool:
        every = self.job.checkpoint.every_steps
        epoch, step = self.batches.cursor
        if self.job.checkpoint.keep_best and step == 0 and self._is_scored(epoch - 1):
            return True
        return bool(agreed.stop or agreed.save or agreed.pause) or (
            every is not None and self.progress.step % every == 0
        )

    def _requests(self) -> tuple[bool, bool]:
        """(stop, pause): rank 0 looks for requests now and then; the step's reduction tells the others."""
        if self.rank != 0 or time.monotonic() - self.progress.requests_checked < REQUEST_POLL_S:
            return False, False
        self.progress.requests_checked = time.monotonic()
        return self.directory.stop_request.exists(), self.directory.pause_request.exists()

    def _wait_for_resize(self) -> None:
        """Say that the state is complete and wait to be replaced; go on if nobody comes."""
        self._report(self.writer.finish())
        if self.rank == 0:
            self.directory.pause_request.replace(self.directory.paused)
            deadline = time.monotonic() + RESIZE_PATIENCE_S
            while time.monotonic() < deadline and not self.directory.stop_request.exists():
                time.sleep(REQUEST_POLL_S / 5)
            self.directory.paused.unlink()
        dist.barrier()

    def _account(self, batch: StepBatch, result: StepResult, seconds: float) -> None:
        progress = self.progress
        self.batches.consumed(batch.epoch, batch.step)
        self.coverage.add(batch.pieces)
        progress.step += 1
        progress.train_seconds += seconds
        progress.epoch_seconds += seconds
        progress.padded += result.padded_tokens
        progress.own_padded += batch.padded_tokens
        progress.valid += batch.valid_tokens
        if progress.step % self.job.tracking.every_steps == 0:
            self._emit("step", step=progress.step, metrics=self._metrics(batch, result, seconds))
        if batch.step + 1 == self.schedule.steps(batch.epoch):
            self._end_epoch(batch.epoch)

    def _metrics(self, batch: StepBatch, result: StepResult, seconds: float) -> dict[str, float]:
        work = StepWork(batch.valid_tokens, result.padded_tokens, batch.valid_flops, result.computed_flops)
        by_task = {f"train/loss_{task}": loss for task, loss in zip(self.spec.tasks, result.losses, strict=True)}
        return {
            "train/loss": float(np.mean(result.losses)),
            **(by_task if len(by_task) > 1 else {}),
            "train/lr": self.lr,
            "train/grad_norm": result.grad_norm,
            "train/epoch": batch.epoch + (batch.step + 1) / self.schedule.steps(batch.epoch),
            "data/padding_ratio": 1.0 - batch.valid_tokens / max(result.padded_tokens, 1),
            "data/source_entropy": batch.source_entropy,
            "data/step_imbalance": batch.imbalance,
            "data/bucket": float(batch.bucket),
            **work.speeds(seconds, self.peak_flops),
            "perf/step_ms": 1e3 * seconds,
            "perf/data_wait_ms": 1e3 * self.progress.wait_seconds,
            "time/train_s": self.progress.train_seconds,
        }

    def _end_epoch(self, epoch: int) -> None:
        progress = self.progress
        coverage, repeated = self.coverage.finish()
        moved = sum_over_ranks(self.placement.counters())
        self._emit(
            "epoch",
            step=progress.step,
            metrics={
                "data/coverage": coverage,
                "data/repeated": repeated,
                "data/epoch_padding_ratio": 1.0 - progress.valid / max(progress.padded, 1),
                "time/epoch_min": progress.epoch_seconds / 60,
                "train/epochs_done": float(epoch + 1),
                "data/rank_imbalance": imbalance_of_ranks(progress.own_padded),
                **moved,
            },
        )
        progress.epoch_seconds, progress.padded, progress.valid, progress.own_padded = 0.0, 0, 0, 0
        if self._is_scored(epoch):
            self._export_for_scoring()

    def _save(self) -> None:
        progress = self.progress
        if self.events:
            self.events.sync()
        info = checkpoints.CheckpointInfo(
            schema=checkpoints.SCHEMA,
            step=progress.step,
            optimizer_step=self.state.optimizer_step,
            seed=self.job.seed,
            world_size=self.world,
            zero_stage=self.job.train.zero_stage,
            fingerprint=self.job.fingerprint,
            sampler=self.batches.state_dict(),
            train_seconds=progress.train_seconds,
            epoch_totals=(progress.epoch_seconds, progress.padded, progress.valid),
            mlflow_run_id=self.directory.read_state().get("mlflow_run_id"),
            versions=checkpoints.versions(),
            files={},
        )
        self._report(self.writer.begin(info))
        progress.saved = time.monotonic()

    def _report(self, ended: list[Saved]) -> None:
        for saved in ended:
            if saved.problem is None:
                metrics = {"perf/checkpoint_stall_ms": saved.stall_ms, "perf/checkpoint_write_ms": saved.write_ms}
                self._emit("checkpoint", step=saved.step, metrics=metrics)
            else:
                text = f"NO checkpoint at step {saved.step}: {saved.problem}; the run goes on from the one before it"
                self._emit("warning", text=text, step=saved.step, metrics={"health/checkpoint_failed": 1.0})

    def _resume(self) -> None:
        choice: list[Any] = [None]
        if self.rank == 0:
            checkpoints.remove_unfinished(self.directory.checkpoints)
            self.directory.pause_request.unlink(missing_ok=True)
            self.directory.paused.unlink(missing_ok=True)
            choice = [
                checkpoints.newest_complete(self.directory.checkpoints, lambda text: self._emit("warning", text=text))
            ]
        dist.broadcast_object_list(choice)
        if choice[0] is None:
            return
        path, info = choice[0]
        checkpoints.load(self.state, path, info, self.job.fingerprint)
        self._note_change("ranks", info.world_size, self.world)
        self._note_change("ZeRO stage", info.zero_stage, self.job.train.zero_stage)
        self.batches.load_state_dict(info.sampler)
        self.progress.step, self.progress.train_seconds = info.step, info.train_seconds
        self.progress.epoch_seconds, self.progress.padded, self.progress.valid = info.epoch_totals
        self._replay_coverage()

    def _note_change(self, what: str, before: int, now: int) -> None:
        if before != now:
            text = f"{what}: {before} at the checkpoint, {now} now; same batches, numbers equal up to rounding"
            self._emit("note", text=text)

    def _replay_coverage(self) -> None:
        """What earlier attempts trained on in this epoch: a pure function of the cursor."""
        epoch, step = self.batches.cursor
        for done in range(step):
            self.coverage.add(self.schedule.rank_step(epoch, done, self.rank, self.world))

    def _best_step(self) -> int | None:
        best = best_so_far(self.directory) if self.job.checkpoint.keep_best else None
        return best[0] if best else None

    def _is_scored(self, epoch: int) -> bool:
        """Whether the model after an epoch is scored beside the training (the last one is scored at the end)."""
        every = self.job.evaluation.every_epochs
        return every is not None and (epoch + 1) % every == 0 and epoch + 1 < self.schedule.epochs

    def _export_for_scoring(self) -> None:
        """Leave the weights where the controller looks for them; complete or not there."""
        started = time.perf_counter()
        final = self.directory.exports / checkpoints.folder_name(self.progress.step)
        unfinished = final.with_name(f".{final.name}.tmp")
        self._export(unfinished)
        if self.rank == 0 and not final.exists():
            unfinished.replace(final)
        milliseconds = 1e3 * (time.perf_counter() - started)
        self._emit("export", step=self.progress.step, metrics={"perf/export_stall_ms": milliseconds})

    def _export(self, folder: Path) -> None:
        weights = self.engine.full_weights()
        if self.rank == 0:
            model = self.spec.build(self.job.seed)
            model.load_state_dict(weights)
            save_model(folder, self.job.model.name, self.job.model.options, model)

    def _emit(self, kind: str, **fields: Any) -> None:
        if self.events:
            self.events.write(kind, **fields)
