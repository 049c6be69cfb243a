"""What every rank runs: build, resume, train step by step, export, say how it ended."""

import platform
from contextlib import ExitStack

import torch.distributed as dist

from orchestrator.monitoring.health import Health
from orchestrator.monitoring.node_monitor import NodeMonitor, watches
from orchestrator.monitoring.profiling import StepProfile
from orchestrator.monitoring.watchdog import Watchdog, stacks_file
from orchestrator.run.rank_events import RankEvents, rank_events
from orchestrator.training.build import Parts
from orchestrator.training.collectives import gather
from orchestrator.training.exporting import Exporter
from orchestrator.training.loop import Outcome, TrainingLoop
from orchestrator.training.mfu import products_of_float32
from orchestrator.training.sample_log import SampleLog, sample_log
from orchestrator.training.state import RunState
from orchestrator.training.totals import EpochTotals, Progress
from orchestrator.training.training_log import TrainingLog


def train(parts: Parts) -> Outcome:
    """Train from the newest state to the end, or until asked to stop: one rank of one attempt.

    Raises:
        MicroBatchTooLargeError: the memory of this rank does not suffice.
        TrainingDivergedError: a loss was not finite or jumped.
        UserError: the saved state does not fit the job.
    """
    directory, job, rank = parts.directory, parts.job, parts.engine.rank
    with ExitStack() as stack:
        events = stack.enter_context(rank_events(directory.events, rank))
        progress = Progress(EpochTotals(parts.schedule.catalogue))
        state = stack.enter_context(
            RunState(directory, job, parts.engine, parts.batches, progress, events, parts.memory)
        )
        state.resume(parts.adjustments.skipped_steps)
        machines = gather(platform.node())
        _announce(parts, progress, machines, events)
        every_s = job.tracking.system_every_s
        if every_s and watches(machines, rank):
            machine = machines[rank]
            monitor = NodeMonitor(directory.system, machine, every_s, lambda: progress.step, events.writer)
            stack.enter_context(monitor)
        samples = None
        if job.tracking.log_samples:
            samples = stack.enter_context(sample_log(directory.samples, rank, directory.events))
        loop = _make_loop(parts, state, progress, machines, events, samples)
        loader = stack.enter_context(parts.loader())
        with loop.watchdog:
            outcome = loop.run(loader)
        parts.placement.close(finished=outcome == "finished")
        if outcome == "finished":
            loop.exporter.export(directory.export)
        events.emit("end", step=progress.step, outcome=outcome, train_s=progress.train_seconds)
    dist.barrier()
    return outcome


def _announce(parts: Parts, progress: Progress, machines: list[str], events: RankEvents) -> None:
    """Write down what runs where, and what the model has to say of it."""
    device = parts.engine.device
    events.emit(
        "attempt", step=progress.step, world=parts.engine.world, total_steps=parts.schedule.total_steps,
        epochs=parts.job.train.epochs, device=str(device), machines=list(dict.fromkeys(machines)),
        rank_machines=machines,
    )  # fmt: skip
    products = products_of_float32(device.type, parts.job.train)
    frozen = f"stays as it is: {', '.join(parts.job.train.freeze)}" if parts.job.train.freeze else None
    for note in (*parts.spec.notes(device.type, parts.data.packed), *filter(None, (products, frozen))):
        events.emit("note", text=note)


def _make_loop(
    parts: Parts,
    state: RunState,
    progress: Progress,
    machines: list[str],
    events: RankEvents,
    samples: SampleLog | None,
) -> TrainingLoop:
    directory, job, engine = parts.directory, parts.job, parts.engine
    failures = job.failures
    stacks = stacks_file(directory.stacks, engine.rank)
    return TrainingLoop(
        job=job,
        schedule=parts.schedule,
        engine=engine,
        skipped_steps=parts.adjustments.skipped_steps,
        state=state,
        log=TrainingLog(
            train=job.train,
            tasks=parts.spec.tasks,
            batches=parts.batches,
            progress=progress,
            events=events,
            samples=samples,
            moved=parts.placement.counters,
            every_steps=job.tracking.every_steps,
            peak_flops=parts.peak_flops,
        ),
        exporter=Exporter(directory, job, parts.spec, engine, events),
        health=Health(machines, events, spike_factor=failures.spike_factor, slow_factor=failures.slow_factor),
        watchdog=Watchdog(
            stacks, factor=failures.hang_factor, floor_s=failures.hang_floor_s, first_s=parts.first_steps_s
        ),
        profile=StepProfile(job.train.profile, directory.profile, engine.rank, engine.device),
    )
