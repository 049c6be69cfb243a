"""Which samples each rank trained on at which step, a line each: what proves that none was lost and none came twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.run.events import EventWriter, read_events, repair
from orchestrator.training.collectives import from_rank_zero
from orchestrator.training.loader import StepBatch


class SampleLog:
    """The log of one rank. attempt: its number, from 1; a step that is repeated has another one."""

    def __init__(self, writer: EventWriter, attempt: int) -> None:
        self._writer = writer
        self._attempt = attempt

    def add(self, step: int, batch: StepBatch) -> None:
        """The true samples of a step that was made (steps count from 1)."""
        held = [micro.samples for micro in batch.micro_batches]
        keys = [key for samples in held for key in samples.keys[samples.weight > 0].tolist()]
        self._writer.write("samples", attempt=self._attempt, step=step, epoch=batch.epoch, keys=keys)


@contextmanager
def sample_log(folder: Path, rank: int, events: Path) -> Iterator[SampleLog]:
    """The log of this rank in a folder (collective: rank 0 counts the attempts in the run's events, this one too)."""
    attempt = from_rank_zero(lambda: sum(event["kind"] == "attempt" for event in read_events(events)[0]))
    folder.mkdir(exist_ok=True)
    path = folder / f"rank-{rank}.jsonl"
    repair(path)
    with EventWriter(path) as writer:
        yield SampleLog(writer, attempt)


def samples_of_epochs(folder: Path) -> dict[int, list[int]]:
    """Keys of the samples of each epoch as the run ended up trained: of a repeated step the last attempt counts."""
    lines = [json.loads(line) for path in sorted(folder.glob("rank-*.jsonl")) for line in path.read_text().splitlines()]
    last: dict[int, int] = {}
    for line in lines:
        last[line["step"]] = max(last.get(line["step"], 0), line["attempt"])
    epochs: dict[int, list[int]] = {}
    for line in lines:
        if line["attempt"] == last[line["step"]]:
            epochs.setdefault(line["epoch"], []).extend(line["keys"])
    return epochs
