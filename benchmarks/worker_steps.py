"""Steps of a real run, as a rank trains it: milliseconds, share of the device's peak, waiting for data.

    python benchmarks/worker_steps.py [--device cuda] [--size published] [--batch 128] [--steps 50]

One rank, without Ray and MLflow, trains HeterCSI on random channels of the 40 published pre-training sets through the
whole path: store, schedule, loader, noise, DeepSpeed ZeRO 1, events. On CUDA in mixed precision. The first ten steps
are left out. Packed batches, and padded ones in four optimal buckets.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from parts.record import record
from parts.timing import device_name
from rich.console import Console
from rich.table import Table

from channels.files import write_json
from channels.presets import load_preset
from channels.shards import Samples
from channels.writer import open_writer
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec
from orchestrator.training.build import build
from orchestrator.training.worker import train

LEFT_OUT = 10
WAYS: dict[str, dict[str, Any]] = {
    "padded, B=4 optimal": {"batching": {"strategy": "bucket"}},
    "packed": {"batching": {"strategy": "packed"}},
    "packed, compiled": {"batching": {"strategy": "packed"}, "train": {"compile": True}},
}


def main() -> None:
    """Time every way, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="published", choices=("tiny", "base", "published"))
    parser.add_argument("--batch", type=int, default=128, help="samples of a step")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=64, help="of each set")
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0)) - 1), help="of the loader")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", arguments.samples)
        start_group(Path(folder) / "group", arguments.device)
        for number, (name, way) in enumerate(WAYS.items()):
            if name.endswith("compiled") and arguments.device == "cpu":
                continue
            job = make_job(store, f"way-{number}", way, arguments)
            rows.append({"way": name} | measure(Path(folder) / job.name, job, arguments))
        dist.destroy_process_group()
    device = device_name(arguments.device)
    print_table(rows, f"HeterCSI {arguments.size}, steps of {arguments.batch} samples, {device}")
    asked = {key: getattr(arguments, key) for key in ("size", "batch", "steps", "threads")} | {"device": device}
    record("worker_steps", asked, rows)


def make_store(path: Path, count: int) -> Path:
    """Random channels of the scales of the published pre-training sets."""
    random = np.random.default_rng(0)
    with open_writer(path, shard_samples=count) as writer:
        for spec in load_preset("hetercsi").pretrain:
            real, imaginary = random.standard_normal((2, count, *spec.shape), dtype=np.float32)
            samples = Samples((real + 1j * imaginary).astype(np.complex64), {})
            writer.add_set(spec, "pretrain", {"train": count}, {"train": [samples]}, {"seed": 0})
    return path


def start_group(file: Path, device: str) -> None:
    """One rank."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=f"file://{file}", rank=0, world_size=1)


def make_job(store: Path, name: str, way: dict[str, Any], arguments: argparse.Namespace) -> JobSpec:
    """A job of so many steps, or of an epoch more."""
    steps = -(-40 * arguments.samples // arguments.batch)
    train_section = {
        "epochs": -(-(arguments.steps + LEFT_OUT) // steps),
        "precision": "bf16" if arguments.device == "cuda" else "fp32",
        "zero_stage": 1,
        "loader_threads": arguments.threads,
    }
    batching = {
        "method": "optimal",
        "buckets": 4,
        "global_batch": arguments.batch,
        "partitions": 1,
        "micro_batch": arguments.batch,
    }
    return JobSpec.model_validate(
        {
            "name": name,
            "data": {"store": str(store)},
            "model": {"name": "hetercsi", "size": arguments.size, "position": "grid"},
            "batching": batching | way.get("batching", {}),
            "train": train_section | way.get("train", {}),
            "checkpoint": {"every_steps": None},
        }
    )


def measure(folder: Path, job: JobSpec, arguments: argparse.Namespace) -> dict[str, Any]:
    """Means over the steps of a run but the first ones."""
    folder.mkdir()
    directory = RunDirectory(folder)
    write_json(directory.spec, job.model_dump(mode="json"))
    train(build(WorkerConfig(folder, arguments.device)))
    lines = [json.loads(line) for line in directory.events.read_text().splitlines()]
    steps = [line["metrics"] for line in lines if line["kind"] == "step"][LEFT_OUT:]
    total = sum(step["perf/step_ms"] for step in steps)
    mfu = sum(step.get("perf/mfu", 0.0) * step["perf/step_ms"] for step in steps) / total
    return {
        "steps": len(steps),
        "step_ms": round(total / len(steps), 1),
        "samples_per_s": round(1e3 * arguments.batch * len(steps) / total, 1),
        "mfu_percent": round(100 * mfu, 1) or None,
        "data_wait_percent": round(100 * sum(step["perf/data_wait_ms"] for step in steps) / total, 2),
    }


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """The table on screen."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if column == "way" else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
