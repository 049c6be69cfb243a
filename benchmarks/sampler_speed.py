"""Plan and one whole epoch for one of 64 ranks: Wavetrain, Lhotse's DynamicBucketingSampler, torch DistributedSampler.

    python benchmarks/sampler_speed.py [--lhotse-python PATH]

360,000 samples with the lengths of the 40 published sets, 128 a rank and batch, 4 buckets. Each contestant runs in a
process of its own. seconds: from the lengths to the last batch of one rank. memory: peak above that of the imports
(Lhotse's includes its manifest of samples, which it cannot do without). padding: each rank pads a batch to its longest.
coverage: share of the samples seen by any rank. repeats: share of the samples seen that were seen before. imbalance:
(most - least) / mean valid tokens of the ranks. waiting: tokens that the slowest rank of each step computes, above the
mean over ranks.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.presets import load_preset
from samplers.catalogue import Catalogue, catalogue_of_specs
from samplers.load import rank_of_samples
from samplers.plan import make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints

SETS, SAMPLES, WORLD, BATCH, BUCKETS = 40, 9000, 64, 128, 4
LHOTSE = "pip install torch==2.13.0 lhotse urllib3 in another environment and name its interpreter by --lhotse-python"
Batches = dict[str, np.ndarray]


def main() -> None:
    """Run the contestants, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lhotse-python", type=Path, help="an interpreter that has lhotse; without it the row is left out"
    )
    parser.add_argument("--contestant", nargs=2, metavar=("NAME", "OUT"), help="run one contestant here")
    arguments = parser.parse_args()
    if arguments.contestant:
        contest(*arguments.contestant)
        return
    rows = [run_here(name) for name in CONTESTANTS]
    if arguments.lhotse_python:
        rows.append(run_lhotse(arguments.lhotse_python))
        print(f"Wavetrain is {rows[-1]['seconds'] / rows[0]['seconds']:.0f} times as fast as Lhotse")
    else:
        print(f"Lhotse is left out; {LHOTSE}")
    print_table(rows)
    record("sampler_speed", {"samples": SETS * SAMPLES, "ranks": WORLD, "batch": BATCH, "buckets": BUCKETS}, rows)


def published() -> Catalogue:
    """The 40 published sets."""
    return catalogue_of_specs(load_preset("hetercsi").pretrain[:SETS], SAMPLES)


def all_lengths(catalogue: Catalogue) -> np.ndarray:
    """Tokens of every sample, set after set."""
    return np.repeat([source.length for source in catalogue], [source.count for source in catalogue])


def run_here(name: str) -> dict:
    """A contestant that this environment has."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "batches.npz"
        return row_of(name, [sys.executable, __file__, "--contestant", name, str(out)], out)


def run_lhotse(python: Path) -> dict:
    """Lhotse, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        lengths, out = Path(folder) / "lengths.npy", Path(folder) / "batches.npz"
        np.save(lengths, all_lengths(published()))
        script = Path(__file__).parent / "parts" / "lhotse_epoch.py"
        command = [python, script, lengths, out, WORLD, BATCH, BUCKETS]
        return row_of("Lhotse DynamicBucketingSampler", [str(part) for part in command], out)


def row_of(name: str, command: list[str], out: Path) -> dict:
    """Figures of a contestant, from what it printed and from the batches it wrote."""
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    cost = json.loads(printed.splitlines()[-1])
    with np.load(out) as batches:
        measured = measure(dict(batches))
    return {
        "sampler": name,
        "seconds": round(cost["seconds"], 4),
        "memory_mib": round(cost["memory_mib"], 1),
        **measured,
    }


def measure(batches: Batches) -> dict:
    """Padding, coverage and balance over all ranks of one epoch."""
    lengths = all_lengths(published())
    length = lengths[batches["sample"]]
    batch = batches["step"] * WORLD + batches["rank"]
    longest, size = np.zeros(batch.max() + 1, np.int64), np.bincount(batch)
    np.maximum.at(longest, batch, length)
    computed = np.zeros((batches["step"].max() + 1) * WORLD, np.int64)
    computed[: len(longest)] = longest * size
    by_step = computed.reshape(-1, WORLD)
    tokens = np.bincount(batches["rank"], weights=length, minlength=WORLD)
    distinct = len(np.unique(batches["sample"]))
    return {
        "steps": len(by_step),
        "padding": round(1 - float(length.sum() / computed.sum()), 4),
        "coverage": round(distinct / len(lengths), 6),
        "repeats": round(1 - distinct / len(length), 6),
        "imbalance": round(float((tokens.max() - tokens.min()) / tokens.mean()), 4),
        "waiting": round(float(by_step.max(axis=1).sum() / by_step.mean(axis=1).sum() - 1), 4),
    }


def contest(name: str, out: str) -> None:
    """Time one contestant in this process, then write what all ranks got."""
    imports = peak_mebibytes()
    started = time.perf_counter()
    batches_of_all_ranks = CONTESTANTS[name]()
    cost = {"seconds": time.perf_counter() - started, "memory_mib": peak_mebibytes() - imports}
    np.savez(out, **batches_of_all_ranks())
    print(json.dumps(cost))


def wavetrain(strategy: str) -> Callable[[], Batches]:
    """Plan and iterate rank 0; gives back how to collect the batches of all ranks."""
    catalogue = published()
    plan = make_plan(
        catalogue,
        strategy=strategy,
        method="optimal",
        buckets=BUCKETS,
        batch=WORLD * BATCH,
        partitions=WORLD,
        constraints=Constraints(min_sources=2),
    )
    schedule = Schedule(catalogue, plan, seed=0, partitions=WORLD, epochs=1)
    for _ in schedule.iterate(0, 0, 0, WORLD):
        pass
    return lambda: collect(schedule)


def collect(schedule: Schedule) -> Batches:
    """True samples of all ranks in an epoch."""
    first = np.cumsum([0] + [source.count for source in schedule.catalogue])
    parts = []
    for _, step, (held,) in schedule.iterate(0, 0, 0, 1):
        true = held.weight > 0
        rank = rank_of_samples(len(true), WORLD, WORLD)[true]
        parts.append((np.full(len(rank), step), rank, first[held.source[true]] + held.index[true]))
    return dict(zip(("step", "rank", "sample"), map(np.concatenate, zip(*parts, strict=True)), strict=True))


def distributed_sampler() -> Callable[[], Batches]:
    """torch's DistributedSampler in batches: no buckets."""
    from torch.utils.data import BatchSampler, DistributedSampler

    def batches(rank: int) -> list[list[int]]:
        sampler = DistributedSampler(range(SETS * SAMPLES), WORLD, rank, shuffle=True, seed=0, drop_last=False)
        return list(BatchSampler(sampler, BATCH, drop_last=False))

    def everything() -> Batches:
        rows = [(step, rank, held) for rank in range(WORLD) for step, held in enumerate(batches(rank))]
        sizes = [len(held) for _, _, held in rows]
        step, rank = (np.repeat([row[column] for row in rows], sizes) for column in (0, 1))
        return {"step": step, "rank": rank, "sample": np.concatenate([held for _, _, held in rows])}

    batches(0)
    return everything


def peak_mebibytes() -> float:
    """Peak resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(rows: list[dict]) -> None:
    """One line a contestant."""
    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "sampler" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=160).print(table)


CONTESTANTS: dict[str, Callable[[], Callable[[], Batches]]] = {
    "Wavetrain, optimal buckets": lambda: wavetrain("bucket"),
    "Wavetrain, global": lambda: wavetrain("global"),
    "torch DistributedSampler": distributed_sampler,
}


if __name__ == "__main__":
    main()
