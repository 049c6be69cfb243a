"""Share of an epoch that is neither forward nor backward pass, with 1 and 2 workers on a CPU.

    python benchmarks/epoch_overhead.py [--samples 128] [--batch 128] [--size tiny] [--workers 1 2]

Workers are those of a run (loader, DeepSpeed, checkpoint at the end, events), one thread each, without Ray.
HeterCSI on the scales of the demo, random channels; the second of two epochs counts. With 2 workers the backward pass
holds the reductions that DeepSpeed starts in it. Seconds of the clock: run it on a machine that does nothing else.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.files import write_json
from channels.presets import load_preset
from channels.shards import Samples
from channels.writer import open_writer
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec


def main() -> None:
    """Make a store, run an epoch with every number of workers, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128, help="of each of the eight sets")
    parser.add_argument("--batch", type=int, default=128, help="samples of a step over all workers")
    parser.add_argument("--size", default="tiny", choices=("tiny", "base"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", arguments.samples)
        rows = [run_epochs(store, workers, arguments.size, arguments.batch) for workers in arguments.workers]
    print_table(rows)
    record("epoch_overhead", {"samples": arguments.samples, "size": arguments.size, "batch": arguments.batch}, rows)


def make_store(path: Path, samples: int) -> Path:
    """Random channels of the demo's scales."""
    random = np.random.default_rng(0)
    with open_writer(path) as writer:
        for spec in load_preset("demo").pretrain:
            draw = random.normal(size=(2, samples, *spec.shape)).astype(np.float32)
            chunk = Samples((draw[0] + 1j * draw[1]).astype(np.complex64), {})
            writer.add_set(spec, "pretrain", {"train": samples}, {"train": [chunk]}, {"seed": 0})
    return path


def run_epochs(store: Path, workers: int, size: str, batch: int) -> dict[str, Any]:
    """The line of a number of workers; the run lies beside the store."""
    folder = store.parent
    directory = RunDirectory(folder / f"run{workers}")
    directory.path.mkdir()
    job = {
        "name": f"run{workers}",
        "data": {"store": str(store)},
        "model": {"name": "hetercsi", "size": size},
        "batching": {"buckets": 4, "min_sources": 2, "global_batch": batch, "partitions": 4},
        "train": {"epochs": 2},
        "scale": {"workers": workers},
        "checkpoint": {"every_steps": 10**6},
    }
    write_json(directory.spec, JobSpec.model_validate(job).model_dump(mode="json"))
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    meeting = str(folder / f"meeting{workers}")
    ranks = [
        context.Process(target=work, args=(rank, workers, meeting, str(directory.path), queue))
        for rank in range(workers)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a rank ended with {process.exitcode}")
    return row_of(directory, workers, queue.get())


def work(rank: int, world: int, meeting: str, folder: str, queue: Any) -> None:
    """One rank of a run; rank 0 tells the seconds of forward and of backward of every step."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_SIZE": str(world)}
    import torch
    import torch.distributed as dist

    from orchestrator.training.build import build
    from orchestrator.training.worker import train

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    parts = build(WorkerConfig(Path(folder), "cpu"))
    network = parts.engine.deepspeed
    spent: dict[str, list[float]] = {"forward": [], "backward": []}
    network.forward = stopwatch(network.forward, spent["forward"])
    network.backward = stopwatch(network.backward, spent["backward"])
    train(parts)
    if rank == 0:
        queue.put(spent)
    dist.destroy_process_group()


def stopwatch(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function, which also notes how long each call took."""

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments, **named)
        seconds.append(time.perf_counter() - started)
        return result

    return timed


def row_of(directory: RunDirectory, workers: int, spent: dict[str, list[float]]) -> dict[str, Any]:
    """Shares of the last epoch."""
    events = [json.loads(line) for line in directory.events.read_text().splitlines()]
    epoch_s = [event["metrics"]["time/epoch_min"] * 60 for event in events if event["kind"] == "epoch"][-1]
    steps = [event["metrics"] for event in events if event["kind"] == "step"]
    steps = steps[len(steps) // 2 :]
    waited = sum(step["perf/data_wait_ms"] for step in steps) / 1e3
    # Of the second of two equal epochs; a step may have several micro-batches.
    forward, backward = (sum(times[len(times) // 2 :]) for times in (spent["forward"], spent["backward"]))
    return {
        "workers": workers,
        "steps": len(steps),
        "epoch_s": epoch_s,
        "forward_percent": 100 * forward / epoch_s,
        "backward_percent": 100 * backward / epoch_s,
        "data_wait_percent": 100 * waited / epoch_s,
        "outside_percent": 100 * (1 - (forward + backward) / epoch_s),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table on screen."""
    table = Table(title="An epoch of HeterCSI on the CPU, one thread a worker")
    for column in ("workers", "steps", "epoch s", "forward %", "backward %", "data wait %", "outside both %"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = [row[f"{name}_percent"] for name in ("forward", "backward", "data_wait", "outside")]
        table.add_row(str(row["workers"]), str(row["steps"]), f"{row['epoch_s']:.1f}", *(f"{x:.2f}" for x in shares))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
