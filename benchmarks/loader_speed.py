"""Samples a second that one loader thread prepares: whole batches, or stored samples of which a device makes them.

    python benchmarks/loader_speed.py [--device cuda] [--batch 32] [--repeats 5]

Scales of the 40 published sets, the shortest, the middle and the longest, random channels; WiMamba draws single slots
of them. host: the batch of a CPU (read, normalise, noise, patches). read: what is left to the thread where a GPU makes
the batch. device: of the batch's transfer and making (on a CPU the same operations, on one thread). Sides take turns;
the least time of ``--repeats`` counts: seconds of one thread on a CPU, of the clock on CUDA.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.record import record
from parts.timing import device_name, timed, use_one_thread
from rich.console import Console
from rich.table import Table

from channels.presets import load_preset
from channels.shards import Samples
from channels.writer import open_writer
from models.interface import ModelSpec
from models.registry import make_spec
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.data import DataSection
from samplers.schedule import Slice

MODELS: dict[str, dict[str, Any]] = {"hetercsi": {}, "wimamba": {"patches": [4]}}


def main() -> None:
    """Make a store, measure both models, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=32, help="samples")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    use_one_thread(arguments.device)
    tables = NormalTables.on(arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", arguments.batch)
        for name, options in MODELS.items():
            spec = make_spec(name, options)
            _, data = open_training_data(DataSection(store=store), spec, seed=0)
            for source in range(len(data.origins)):
                rows.append(measure(spec, data, source, tables, arguments))
    print_table(rows, device_name(arguments.device))
    record("loader_speed", {"batch": arguments.batch, "device": device_name(arguments.device)}, rows)


def make_store(path: Path, samples: int) -> Path:
    """Random channels of three published scales: the smallest, the one in the middle and the largest."""
    scales = sorted(load_preset("hetercsi").pretrain, key=lambda spec: np.prod(spec.shape))
    random = np.random.default_rng(0)
    with open_writer(path) as writer:
        for spec in (scales[0], scales[len(scales) // 2], scales[-1]):
            draw = random.normal(size=(2, samples, *spec.shape)).astype(np.float32)
            chunk = Samples((draw[0] + 1j * draw[1]).astype(np.complex64), {})
            writer.add_set(spec, "pretrain", {"train": samples}, {"train": [chunk]}, {"seed": 0})
    return path


def measure(
    spec: ModelSpec, data: TrainingData, source: int, tables: NormalTables, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One row: samples/s of each side."""
    device, origin = arguments.device, data.origins[source]
    random = np.random.default_rng(1)
    slice_ = Slice(
        bucket=0,
        variant=origin.variant,
        source=np.full(arguments.batch, source, np.int32),
        index=random.permutation(arguments.batch * origin.samples_per_stored)[: arguments.batch].astype(np.int64),
        weight=np.ones(arguments.batch, np.float32),
        epoch=0,
    )
    on_gpu = device == "cuda"
    stored = data.stored_batch(slice_, tables, pinned=on_gpu)
    sides: dict[str, Callable[[], object]] = {
        "host": lambda: data.batch(slice_),
        "read": lambda: data.stored_batch(slice_, tables, pinned=on_gpu),
        "device": lambda: stored.to(device, non_blocking=True).prepared(),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(arguments.repeats + 1):
        for side, call in sides.items():
            took = timed(call, device if side == "device" else "cpu")
            if repeat:
                seconds[side].append(took)
    rates = {f"{side}_per_s": round(arguments.batch / min(times)) for side, times in seconds.items()}
    tokens = spec.length(origin.shape, origin.variant)
    return {"model": spec.name, "scale": "x".join(map(str, origin.shape)), "tokens": tokens, **rates}


def print_table(rows: list[dict[str, Any]], device: str) -> None:
    """One line a scale."""
    table = Table(title=f"samples/s, {device}", box=None)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
