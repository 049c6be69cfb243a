"""Which samples each rank trained on at which step, a line each: what proves that none was lost and none came twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from orchestrator.run.events import EventWriter, read_events, repair
from orchestrator.training.loader import StepBatch


class SampleLog:
    """The log of one rank. life: how many attempts there were before, so that a repeated step can be told apart."""

    def __init__(self, writer: EventWriter, life: int) -> None:
        self._writer = writer
        self._life = life

    def add(self, step: int, batch: StepBatch) -> None:
        """The true samples of a step that was made (steps count from 1)."""
        keys = [key for micro in batch.micro_batches for key in micro.keys[micro.weight > 0].tolist()]
        self._writer.write("samples", life=self._life, step=step, epoch=batch.epoch, keys=keys)


@contextmanager
def sample_log(folder: Path, rank: int, events: Path) -> Iterator[SampleLog]:
    """The log of this rank in a folder (collective: rank 0 tells which life of the run it is)."""
    life = [sum(event["kind"] == "attempt" for event in read_events(events)[0]) if rank == 0 else 0]
    dist.broadcast_object_list(life)
    folder.mkdir(exist_ok=True)
    path = folder / f"rank-{rank}.jsonl"
    repair(path)
    with EventWriter(path) as writer:
        yield SampleLog(writer, life[0])


def samples_of_epochs(folder: Path) -> dict[int, list[int]]:
    """Keys of the samples of each epoch as the run ended up being trained: of a repeated step the last life counts."""
    lines = [json.loads(line) for path in sorted(folder.glob("rank-*.jsonl")) for line in path.read_text().splitlines()]
    last: dict[int, int] = {}
    for line in lines:
        last[line["step"]] = max(last.get(line["step"], 0), line["life"])
    epochs: dict[int, list[int]] = {}
    for line in lines:
        if line["life"] == last[line["step"]]:
            epochs.setdefault(line["epoch"], []).extend(line["keys"])
    return epochs
