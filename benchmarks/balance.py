"""How much more the busiest rank computes than the mean, as samples are drawn and as they are dealt by cost.

    python benchmarks/balance.py [--ranks 8 64 1024] [--samples 16]

The 40 published sets, packed over all sets, one partition a rank, HeterCSI of published size. tokens, operations: those
of the busiest rank over the mean of the ranks, mean over the steps; most: of the worst step, in operations. plan: what
a rank does a step to know its own samples, in order, microseconds of the processor.
"""

import argparse
import time
from typing import Any

import numpy as np
from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.presets import load_preset
from models.registry import make_spec
from samplers.catalogue import Catalogue, catalogue_of_specs
from samplers.dealing import whole_costs
from samplers.plan import make_plan
from samplers.schedule import Schedule

SETS = 40
STEPS = 200
VARIANT = 4
Row = dict[str, Any]


def main() -> None:
    """Both ways for every number of ranks, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--samples", type=int, default=16, help="of a rank in a step")
    arguments = parser.parse_args()
    specs = load_preset("hetercsi").pretrain[:SETS]
    model = make_spec("hetercsi", {})
    flops = np.asarray([model.forward_flops(spec.shape, VARIANT) for spec in specs])
    rows = []
    for ranks in arguments.ranks:
        catalogue = catalogue_of_specs(specs, max(9000, ranks * arguments.samples))
        for balance in ("count", "cost"):
            rows.append(measure(catalogue, flops, ranks, arguments.samples, balance))
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    print_table(rows)
    record("balance", {"sets": SETS, "samples": arguments.samples, "steps": STEPS}, rows)


def measure(catalogue: Catalogue, flops: np.ndarray, ranks: int, samples: int, balance: str) -> Row:
    """One row."""
    plan = make_plan(catalogue, strategy="packed", pack="global", batch=ranks * samples, partitions=ranks)
    costs = whole_costs(flops) if balance == "cost" else None
    schedule = Schedule(catalogue, plan, seed=0, partitions=ranks, epochs=1, costs=costs)
    tokens = np.asarray([source.length for source in catalogue], np.float64)
    # The last step of the epoch may hold fillers.
    steps = min(schedule.steps(0) - 1, STEPS)
    over: list[tuple[float, float]] = []
    for step in range(steps):
        [held] = schedule.global_step(0, step)
        loads = [(work[held.source] * held.weight).reshape(ranks, -1).sum(axis=1) for work in (tokens, flops)]
        over.append((float(loads[0].max() / loads[0].mean()), float(loads[1].max() / loads[1].mean())))
    mean_tokens, mean_operations = np.mean(over, axis=0)
    return {
        "ranks": ranks,
        "balance": balance,
        "tokens": round(float(mean_tokens), 4),
        "operations": round(float(mean_operations), 4),
        "most": round(max(operations for _, operations in over), 4),
        "plan_us": round(plan_us(schedule, ranks, steps), 1),
    }


def plan_us(schedule: Schedule, ranks: int, steps: int) -> float:
    """Microseconds a step of one rank, the least of three passes."""
    schedule.rank_step(0, 0, ranks // 2, ranks)
    found = []
    for _ in range(3):
        started = time.process_time()
        for _, _ in zip(range(steps), schedule.iterate(0, 0, ranks // 2, ranks), strict=False):
            pass
        found.append((time.process_time() - started) / steps * 1e6)
    return min(found)


def print_table(rows: list[Row]) -> None:
    """One line a row."""
    table = Table(box=None, title="busiest rank over the mean")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
