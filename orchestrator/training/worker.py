"""What every rank runs: build, resume, train step by step, save, stop when asked."""

import platform
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from models.export import save_model
from models.registry import make_spec
from orchestrator.checkpoint.format import folder_name
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import open_training_data
from orchestrator.monitoring.divergence import SpikeDetector
from orchestrator.monitoring.node_monitor import NodeMonitor, gather_machines, watches
from orchestrator.monitoring.profiling import StepProfile, waiting_for_data
from orchestrator.monitoring.stragglers import StragglerDetector
from orchestrator.monitoring.watchdog import Watchdog, stacks_file
from orchestrator.run.adjustments import Adjustments, read_adjustments, smaller
from orchestrator.run.events import EventWriter, repair
from orchestrator.run.failures import TrainingDivergedError
from orchestrator.run.folder import RunDirectory
from orchestrator.run.signals import SILENCE
from orchestrator.shard_cache.placement import Placement, gather_node_group, make_placement
from orchestrator.spec.job import JobSpec
from orchestrator.training.coverage import EpochCoverage, imbalance_of_ranks, sum_over_ranks
from orchestrator.training.engine import TrainingEngine
from orchestrator.training.learning_rate import learning_rate
from orchestrator.training.loader import StepBatch, StepLoader
from orchestrator.training.memory import explained_memory
from orchestrator.training.mfu import StepWork, device_peak
from orchestrator.training.sample_log import SampleLog, sample_log
from orchestrator.training.skipping import skipped_samples
from orchestrator.training.state import Progress, RunState
from orchestrator.training.step_report import StepReport, StepResult
from samplers.batches import ScheduledBatches
from samplers.permutation import root_key
from samplers.schedule import Schedule

Outcome = Literal["finished", "stopped"]


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
        self.progress = Progress()
        self.run_state = RunState(
            directory,
            self.job,
            self.engine,
            self.batches,
            self.progress,
            emit=self._emit,
            before_saving=self._sync_events,
        )
        self.profile = StepProfile(self.job.train.profile, directory.profile, self.rank, self.engine.device)
        self.coverage = EpochCoverage(catalogue)
        self.adjustments = _adjustments_of_all(directory)
        failures = self.job.failures
        self.spikes = SpikeDetector(failures.spike_factor)
        self.stragglers = StragglerDetector(self.world, failures.slow_factor)
        self.watchdog = Watchdog(
            stacks_file(directory.stacks, self.rank), factor=failures.hang_factor, floor_s=failures.hang_floor_s
        )
        self.events: EventWriter | None = None
        self.samples: SampleLog | None = None

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
            stack.enter_context(self.run_state)
            if self.run_state.resume():
                self._replay_coverage()
            machines = gather_machines(platform.node())
            self._emit(
                "attempt", step=self.progress.step, world=self.world, total_steps=self.schedule.total_steps,
                epochs=self.job.train.epochs, device=str(self.engine.device), machines=list(dict.fromkeys(machines)),
                rank_machines=machines,
            )  # fmt: skip
            self.machines = machines
            self._watch_machine(stack, machines)
            self.spec.check(self.engine.device.type)
            for note in self.spec.notes(self.engine.device.type, self.data.packed):
                self._emit("note", text=note)
            if self.job.tracking.log_samples:
                self.samples = stack.enter_context(sample_log(self.directory.samples, self.rank, self.directory.events))
            loader = stack.enter_context(self._loader())
            with self.watchdog:
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
            micro_batch=smaller(self.job.batching.micro_batch, self.adjustments.micro_batch),
            threads=self.job.train.loader_threads,
            prefetch=self.job.train.prefetch,
            pin_memory=self.engine.device.type == "cuda",
        )

    def _train(self, loader: StepLoader) -> Outcome:
        started = time.perf_counter()
        stop = False
        for batch, result, running in self._results(loader):
            if result is None:
                self._skip(batch)
            else:
                self._account(batch, result, time.perf_counter() - started)
            started = time.perf_counter()
            self.watchdog.beat()
            signals = SILENCE if result is None else result.signals
            stop = stop or bool(signals.stop)
            finished = self.progress.step == self.schedule.total_steps
            with self.watchdog.paused():
                stood_still = self.run_state.after_step(signals, finished=finished, running=running)
            if stood_still:
                started = time.perf_counter()
            if stop and not (running or finished):
                break
        with self.watchdog.paused():
            self.profile.close(self.progress.step)
            self.run_state.finish()
        return "finished" if self.progress.step == self.schedule.total_steps else "stopped"

    def _results(self, loader: StepLoader) -> Iterator[tuple[StepBatch, StepResult | None, int]]:
        """Steps in order, once their numbers are read (None: to be skipped), and how many are running already.

        None is when a state is to be saved: it must be that of the last step read, whose loss was finite.
        """
        running: deque[tuple[StepBatch, float, StepReport]] = deque()
        begun, settling = self.progress.step, False
        for batch in self._timed(loader):
            skipped = begun in self.adjustments.skipped_steps
            if not skipped:
                running.append((batch, self.progress.wait_seconds, self._begin(batch, begun)))
            begun += 1
            settling = settling or skipped or self._stands_still_after(batch, begun)
            while len(running) > (0 if settling else self.engine.lag):
                oldest, self.progress.wait_seconds, report = running.popleft()
                result = self._read(oldest, report)
                settling = settling or result.signals.ask_to_save
                yield oldest, result, len(running)
            if skipped:
                yield batch, None, 0
            settling = settling and bool(running)

    def _stands_still_after(self, batch: StepBatch, step: int) -> bool:
        """Whether a state is saved or weights are exported after a batch, the last of so many steps."""
        ended = batch.epoch if batch.step + 1 == self.schedule.steps(batch.epoch) else None
        scored = ended is not None and self.run_state.is_scored(ended)
        return step == self.schedule.total_steps or scored or self.run_state.is_planned(step, ended)

    def _timed(self, loader: StepLoader) -> Iterator[StepBatch]:
        steps, first = iter(loader), True
        while True:
            waited = time.perf_counter()
            with waiting_for_data():
                batch = self._first_batch(steps) if first else next(steps, None)
            first = False
            self.progress.wait_seconds = time.perf_counter() - waited
            if batch is None:
                return
            yield batch

    def _first_batch(self, steps: Iterator[StepBatch]) -> StepBatch | None:
        """It may wait for copies of many shards; the ranks of other nodes wait here and not in the first step."""
        if self.job.data.placement == "shared":
            return next(steps, None)
        with self.watchdog.paused():
            batch = next(steps, None)
            dist.barrier()
        return batch

    def _begin(self, batch: StepBatch, step: int) -> StepReport:
        self.profile.before(step)
        torch.manual_seed(root_key("step", self.job.seed, step, self.rank) & (2**63 - 1))
        with self._telling_divergence(step), explained_memory(batch, self.rank):
            return self.engine.begin(batch, self.job.seed, self._rate(batch), self.run_state.signals())

    def _read(self, batch: StepBatch, report: StepReport) -> StepResult:
        with self._telling_divergence(self.progress.step):
            result = report.read()
            self._check_loss(batch, _mean_of_tasks(batch, result))
        self._look_for_stragglers(result)
        return result

    @contextmanager
    def _telling_divergence(self, step: int) -> Iterator[None]:
        try:
            yield
        except TrainingDivergedError as error:
            self._emit("diverged", step=step, cause=str(error))
            raise TrainingDivergedError(str(error), step) from None

    def _check_loss(self, batch: StepBatch, loss: float) -> None:
        problem = self.spikes.add(loss)
        if problem is not None:
            raise TrainingDivergedError(
                f"{problem}, at epoch {batch.epoch}, step {batch.step} of the epoch, bucket {batch.bucket}"
            )

    def _look_for_stragglers(self, result: StepResult) -> None:
        slow, self.slowest = self.stragglers.add(result.rank_seconds)
        for rank, times in slow:
            text = f"rank {rank} on {self.machines[rank]} computes {times:.1f} times as long as the median rank"
            self._emit("warning", text=text, step=self.progress.step, metrics={"health/slow_rank": float(rank)})

    def _skip(self, batch: StepBatch) -> None:
        """Pass over a step that an earlier attempt diverged at: its samples are named, and coverage lacks them."""
        self.batches.consumed(batch.epoch, batch.step)
        self.progress.step += 1
        samples = skipped_samples(self.schedule, batch.epoch, batch.step)
        count = float(sum(map(len, samples.values())))
        metrics = {"health/skipped_samples": count}
        self._emit("skipped", step=self.progress.step, metrics=metrics, samples=samples)
        self._emit("warning", text=f"step {self.progress.step} is skipped ({count:.0f} samples): a loss diverged there")
        if batch.step + 1 == self.schedule.steps(batch.epoch):
            self._end_epoch(batch.epoch)

    def _rate(self, batch: StepBatch) -> float:
        train = self.job.train
        position = batch.epoch + batch.step / self.schedule.steps(batch.epoch)
        return learning_rate(
            position, peak=train.lr, floor=train.min_lr, warmup=train.warmup_epochs, total=float(train.epochs)
        )

    def _account(self, batch: StepBatch, result: StepResult, seconds: float) -> None:
        progress = self.progress
        self.batches.consumed(batch.epoch, batch.step)
        self.coverage.add(batch.pieces)
        progress.step += 1
        if self.samples:
            self.samples.add(progress.step, batch)
        progress.train_seconds += seconds
        progress.epoch_seconds += seconds
        progress.padded += result.padded_tokens
        progress.own_padded += batch.padded_tokens
        progress.valid += batch.valid_tokens
        last = progress.step == self.schedule.total_steps
        if last or progress.step % self.job.tracking.every_steps == 0:
            self._emit("step", step=progress.step, metrics=self._metrics(batch, result, seconds))
        if batch.step + 1 == self.schedule.steps(batch.epoch):
            self._end_epoch(batch.epoch)

    def _metrics(self, batch: StepBatch, result: StepResult, seconds: float) -> dict[str, float]:
        work = StepWork(batch.valid_tokens, result.padded_tokens, batch.valid_flops, result.computed_flops)
        by_task = {
            f"train/loss_{task}": loss
            for task, loss, masked in zip(self.spec.tasks, result.losses, batch.denominators, strict=True)
            if masked > 0
        }
        return {
            "train/loss": _mean_of_tasks(batch, result),
            **(by_task if len(self.spec.tasks) > 1 else {}),
            "train/lr": self._rate(batch),
            "train/grad_norm": result.grad_norm,
            "train/epoch": batch.epoch + (batch.step + 1) / self.schedule.steps(batch.epoch),
            "data/padding_ratio": 1.0 - batch.valid_tokens / max(result.padded_tokens, 1),
            "data/source_entropy": batch.source_entropy,
            "data/step_imbalance": batch.imbalance,
            "data/bucket": float(batch.bucket),
            **work.speeds(seconds, self.peak_flops),
            "perf/step_ms": 1e3 * seconds,
            "perf/slowest_rank": self.slowest,
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
                "perf/epoch_tokens_per_s": progress.valid / max(progress.epoch_seconds, 1e-9),
                "time/epoch_min": progress.epoch_seconds / 60,
                "train/epochs_done": float(epoch + 1),
                "data/rank_imbalance": imbalance_of_ranks(progress.own_padded),
                **moved,
            },
        )
        progress.epoch_seconds, progress.padded, progress.valid, progress.own_padded = 0.0, 0, 0, 0
        if self.run_state.is_scored(epoch):
            with self.watchdog.paused():
                self._export_for_scoring()

    def _replay_coverage(self) -> None:
        """What earlier attempts trained on in this epoch: a pure function of the cursor and of what was skipped."""
        epoch, step = self.batches.cursor
        first = self.progress.step - step
        for done in range(step):
            if first + done in self.adjustments.skipped_steps:
                continue
            self.coverage.add(self.schedule.rank_step(epoch, done, self.rank, self.world))

    def _export_for_scoring(self) -> None:
        """Leave the weights where the controller looks for them; complete or not there."""
        started = time.perf_counter()
        final = self.directory.exports / folder_name(self.progress.step)
        unfinished = final.with_name(f".{final.name}.tmp")
        self._export(unfinished)
        if self.rank == 0 and not final.exists():
            unfinished.replace(final)
        # Whoever went on would wait in the next step, where its watchdog counts.
        dist.barrier()
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

    def _sync_events(self) -> None:
        if self.events:
            self.events.sync()


def _mean_of_tasks(batch: StepBatch, result: StepResult) -> float:
    """Mean loss of the tasks that mask anything of this batch, which is what is minimised."""
    present = np.asarray(result.losses)[batch.denominators > 0]
    return float(present.mean()) if present.size else 0.0


def _adjustments_of_all(directory: RunDirectory) -> Adjustments:
    """What rank 0 reads (collective): a file server may still hide a new file from another node."""
    found = [read_adjustments(directory.adjustments) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    assert found[0] is not None
    return found[0]
