"""Cost of planning and of the next step, from a million to a billion samples and from 8 to 1,024 ranks.

    python benchmarks/schedule_scale.py

Every row runs in a process of its own. plan: catalogue, optimal plan of 16 buckets over 1,000 sets of 97 lengths,
schedule and first batch. next: mean over consecutive batches of one rank. any: a batch somewhere in the run. whole:
what the loss and the metrics need of all samples of a step. loader: what a rank does a step beside reading samples:
next, and its part of whole, which the ranks share. alone: the same where every rank looks at the whole step itself.
dealt: as loader, of packed batches of all sets whose samples are dealt by cost.
report: what the ranks tell each other of a step, but for the network: made, read, and looked through for slow ranks,
with the statistics of a GPU's allocator.
memory: peak resident size of the process before that look; imports: that of the imports alone. Seconds of the
processor, which other work on the machine disturbs little.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from parts.record import record
from rich.console import Console
from rich.table import Table

from samplers.catalogue import Catalogue, Source
from samplers.plan import make_plan
from samplers.schedule import Schedule

SAMPLES = (10**6, 10**7, 10**8, 10**9)
RANKS = (8, 64, 1024)
SETS, LENGTHS, BUCKETS = 1000, 97, 16
MOST_BATCHES = 2000


def main() -> None:
    """Measure every row in a fresh process, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=2, type=int, metavar=("SAMPLES", "RANKS"), help="measure one row only")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*arguments.row)))
        return
    rows = [run_row(samples, ranks) for samples in SAMPLES for ranks in RANKS]
    print_table(rows)
    record("schedule_scale", {"sets": SETS, "lengths": LENGTHS, "buckets": BUCKETS}, rows)


def run_row(samples: int, ranks: int) -> dict:
    """One row, measured by this script in another process."""
    command = [sys.executable, __file__, "--row", str(samples), str(ranks)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(samples: int, ranks: int) -> dict:
    """Figures of one row; a rank's batch is 128 samples, fewer where the smallest bucket would not fill a slice."""
    imports = peak_mebibytes()
    batch = min(128, samples // (2 * BUCKETS * ranks))
    started = time.process_time()
    lengths = [8 * (1 + number * 37 % LENGTHS) for number in range(SETS)]
    catalogue = Catalogue([Source(f"S{n}", length, samples // SETS) for n, length in enumerate(lengths)])
    plan = make_plan(catalogue, method="optimal", buckets=BUCKETS, batch=ranks * batch, partitions=ranks)
    schedule = Schedule(catalogue, plan, seed=0, partitions=ranks, epochs=2)
    schedule.rank_step(0, 0, ranks // 2, ranks)
    planned = time.process_time() - started
    following, anywhere = next_batch(schedule, ranks), any_batch(schedule, ranks)
    memory = peak_mebibytes()
    whole = whole_step(schedule, ranks)
    packed = packed_schedule(catalogue, ranks, batch)
    dealt = next_batch(packed, ranks) + whole_step(packed, ranks) / ranks
    return {
        "samples": samples,
        "ranks": ranks,
        "batch_of_a_rank": batch,
        "steps": schedule.steps(0),
        "plan_s": round(planned, 3),
        "next_us": round(following, 1),
        "any_us": round(anywhere, 1),
        "whole_us": round(whole, 1),
        "loader_us": round(following + whole / ranks, 1),
        "alone_us": round(following + whole, 1),
        "dealt_us": round(dealt, 1),
        "report_us": round(step_report(ranks), 1),
        "memory_mib": round(memory, 1),
        "imports_mib": round(imports, 1),
    }


def packed_schedule(catalogue: Catalogue, ranks: int, batch: int) -> Schedule:
    """Of slices of all sets, whose samples cost as much as they are long and a little more."""
    plan = make_plan(catalogue, strategy="packed", pack="global", batch=ranks * batch, partitions=ranks)
    costs = tuple(source.length**2 + 1000 * source.length for source in catalogue)
    return Schedule(catalogue, plan, seed=0, partitions=ranks, epochs=2, costs=costs)


def next_batch(schedule: Schedule, ranks: int) -> float:
    """Microseconds a batch in order."""
    count = 0
    started = time.process_time()
    for _ in schedule.iterate(0, 0, ranks // 2, ranks):
        count += 1
        if count == MOST_BATCHES:
            break
    return (time.process_time() - started) / count * 1e6


def any_batch(schedule: Schedule, ranks: int, draws: int = 100) -> float:
    """Microseconds a batch at a random step."""
    steps = np.random.default_rng(0).integers(0, schedule.steps(1), draws).tolist()
    started = time.process_time()
    for step in steps:
        schedule.rank_step(1, step, ranks // 2, ranks)
    return (time.process_time() - started) / draws * 1e6


def whole_step(schedule: Schedule, ranks: int, draws: int = 10) -> float:
    """Microseconds to look at all samples of a step, with three tasks; the least of some steps."""
    # Here, since torch weighs more than a schedule.
    from orchestrator.data.global_steps import GlobalStep
    from orchestrator.data.reader import TrainingData

    lengths = np.asarray([source.length for source in schedule.catalogue], np.int64)
    targets = np.stack([lengths // 2, lengths // 3, lengths // 4], axis=1).astype(np.float64)
    data = TrainingData(
        store=None, spec=None, origins=(), targets=targets, lengths=lengths, flops=lengths * 1e6, snr_db=None, seed=0
    )
    seconds = []
    for step in np.random.default_rng(1).integers(0, schedule.steps(1), draws).tolist():
        started = time.process_time()
        GlobalStep.of(data, schedule, (1, step), ranks)
        seconds.append(time.process_time() - started)
    return min(seconds) * 1e6


def step_report(ranks: int, steps: int = 300) -> float:
    """Microseconds a step of what rank 0 does with all ranks' numbers, in a group whose other ranks are made up."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from orchestrator.monitoring.allocator import allocator_metrics
    from orchestrator.monitoring.stragglers import StragglerDetector
    from orchestrator.run.signals import SILENCE
    from orchestrator.training.step_report import StepReport
    from tests.orchestrator.training.batches import step_batch

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    detector, batch, share = StragglerDetector(ranks, 1.5), step_batch(0), torch.tensor([0.1, 0.2])
    started = time.process_time()
    for _ in range(steps):
        report = StepReport(share, batch, SILENCE, 0.25, (3e10, 5e10, 0.0))
        report.add_norm(1.0)
        result = report.read()
        detector.add(result.rank_seconds)
        allocator_metrics(result.rank_memory)
    spent = (time.process_time() - started) / steps * 1e6
    dist.destroy_process_group()
    return spent


def peak_mebibytes() -> float:
    """Peak resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(rows: list[dict]) -> None:
    """One line a row."""
    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" for value in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
