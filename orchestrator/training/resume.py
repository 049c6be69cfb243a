"""How a start takes up the newest state of a run."""

from pathlib import Path

from channels.errors import UserError
from orchestrator.checkpoint import format as checkpoints
from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.machines import Machines
from orchestrator.run import exports
from orchestrator.run.folder import RunDirectory
from orchestrator.run.rank_events import RankEvents
from orchestrator.spec.job import JobSpec
from orchestrator.training.collectives import from_rank_zero
from samplers.batches import ScheduledBatches


def load_newest(
    directory: RunDirectory,
    job: JobSpec,
    state: TrainingState,
    batches: ScheduledBatches,
    events: RankEvents,
    memory: Machines | None = None,
) -> CheckpointInfo | None:
    """Put the newest complete state into the engine and move the cursor there (collective); None for a new run.

    memory: of the machines, where one may lie.

    Raises:
        UserError: it does not fit the job.
    """
    choice = from_rank_zero(lambda: _choose(directory, events))
    kept = memory.newest() if memory is not None else None
    is_newer = kept is not None and (choice is None or kept.step > choice[1].step)
    if memory is not None and kept is not None and is_newer and memory.fetch():
        choice = memory.folder, kept
    if choice is None:
        return None
    path, info = choice
    checkpoints.load(state, path, info, job.fingerprint)
    if memory is not None:
        memory.release()
    _note_change(events, "ranks", info.world_size, batches.world)
    _note_change(events, "ZeRO stage", info.zero_stage, job.train.zero_stage)
    batches.load_state_dict(info.sampler)
    _check_cursor(batches, path, info.step)
    return info


def _choose(directory: RunDirectory, events: RankEvents) -> tuple[Path, CheckpointInfo] | None:
    """The state to go on from (on rank 0); what broken attempts left is cleared away."""
    checkpoints.remove_unfinished(directory.checkpoints)
    exports.remove_unfinished(directory)
    directory.pause_request.unlink(missing_ok=True)
    directory.paused.unlink(missing_ok=True)
    found = checkpoints.newest_complete(directory.checkpoints, lambda text: events.emit("warning", text=text))
    checkpoints.set_aside_newer(directory.checkpoints, found and found[0])
    return found


def _note_change(events: RankEvents, what: str, before: int, now: int) -> None:
    if before != now:
        text = f"{what}: {before} at the checkpoint, {now} now; same batches, numbers equal up to rounding"
        events.emit("note", text=text)


def _check_cursor(batches: ScheduledBatches, path: Path, step: int) -> None:
    """Steps that are done and the cursor in the schedule say the same."""
    epoch, step_of_epoch = batches.cursor
    done = sum(map(batches.schedule.steps, range(epoch))) + step_of_epoch
    if done != step:
        what = f"{step} steps are done, but the cursor says {done}"
        raise UserError(what, where=str(path), mend="remove this checkpoint")
