"""Weak scaling of HeterCSI (published size, 40 published sets), simulated from 1 to 1,024 GPUs.

    python benchmarks/weak_scaling.py [--samples 16] [--rate 4e14 | --rate fit] [--steps 200]

Every GPU trains on ``--samples`` samples a step. Two orders of the very same slices: lock-step, in which all ranks draw
from one bucket at a step (the schedule as it is), and independent, in which every rank goes through its own slices in
its own order, as ranks with samplers of their own do. A step takes as long as its slowest rank, then the all-reduce.
What it assumes is in docs/scaling.md. First the forms of both models are fitted to this machine: compute, seconds =
start + operations / rate, to training steps of the tiny model, one at each length; the all-reduce, seconds = start +
bytes moved / bandwidth, to gloo between two processes. Then ``--rate`` and ``Network`` stand for GPUs, or with ``--rate
fit`` the fits for machines like this one.
"""

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from parts.record import record
from parts.timing import timed, use_one_thread
from rich.console import Console
from rich.table import Table
from training_step import FusedStep, make_batch, random_tokens

from channels.presets import load_preset
from models.hetercsi.spec import HeterCsiSpec
from models.layers.parameters import count_parameters
from orchestrator.data.flops import PASSES_OF_TRAINING
from samplers.catalogue import catalogue_of_specs
from samplers.plan import make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints

SAMPLES_A_SET = 9000
VARIANT = 4
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GPUS_A_NODE = 8
BYTES_A_GRADIENT = 4
"""Mixed precision sums gradients over the ranks in float32."""
REDUCED_BYTES = (2**18, 2**20, 2**22, 2**24, 2**26)


@dataclass(frozen=True)
class Network:
    """What an all-reduce is made of. Bandwidths in bytes/s of one GPU, latency in seconds of one hop."""

    inside: float = 300e9
    between: float = 50e9
    latency: float = 10e-6

    def all_reduce(self, size: float, gpus: int) -> float:
        """Seconds of a ring all-reduce of ``size`` bytes at the slowest link's bandwidth, and a tree's latency."""
        if gpus == 1:
            return 0.0
        bandwidth = self.inside if gpus <= GPUS_A_NODE else self.between
        return float(2 * (gpus - 1) / gpus * size / bandwidth + 2 * np.log2(gpus) * self.latency)


@dataclass(frozen=True)
class Device:
    """What a slice is computed on: seconds = start + operations / rate."""

    rate: float
    start: float = 0.0


def main() -> None:
    """Fit, simulate, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16, help="of one GPU in a step")
    parser.add_argument("--rate", default="4e14", help="operations/s of a GPU while it computes; fit: as measured here")
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="most steps simulated for a number of GPUs")
    arguments = parser.parse_args()
    use_one_thread("cpu")
    fit, reduction = fit_compute(), fit_all_reduce()
    print(f"measured here: {fit['rate']:.3g} operations/s, start {fit['start_ms']:.1f} ms, "
          f"largest residual {100 * fit['worst_residual']:.1f} %")  # fmt: skip
    print(f"all-reduce of two processes here (gloo): {reduction['bandwidth'] / 1e9:.2f} GB/s, start "
          f"{reduction['start_ms']:.2f} ms, largest residual {100 * reduction['worst_residual']:.0f} %")  # fmt: skip
    device, network = machine_of(arguments.rate, fit, reduction)
    print(f"simulated: {device}, {network}")
    spec = HeterCsiSpec(size="published")
    gradient = BYTES_A_GRADIENT * count_parameters(spec.build(0))
    rows = [simulate(spec, gradient, gpus, arguments, device, network) for gpus in GPUS]
    for row in rows:
        for order in ("lock_step", "independent"):
            row[f"{order}_efficiency"] = rows[0]["lock_step_ms"] / row[f"{order}_ms"]
    print_table(rows, arguments)
    simulated = {"device": asdict(device), "network": asdict(network)}
    fits = {"fit": fit, "all_reduce_fit": reduction, "simulated": simulated}
    record("weak_scaling", {**vars(arguments), **fits, "gradient_bytes": gradient}, rows)


def machine_of(rate: str, fit: dict[str, float], reduction: dict[str, float]) -> tuple[Device, Network]:
    """What is simulated: the assumed GPU at a rate, or the machine that was measured."""
    if rate != "fit":
        return Device(float(rate)), Network()
    bandwidth, hop = reduction["bandwidth"], max(reduction["start_ms"], 0.0) / 1e3 / 2
    return Device(fit["rate"], max(fit["start_ms"], 0.0) / 1e3), Network(bandwidth, bandwidth, hop)


def fit_compute() -> dict[str, float]:
    """Least squares of seconds = start + operations / rate over training steps of the tiny model, one a length."""
    spec, sets = HeterCsiSpec(size="tiny"), load_preset("hetercsi").pretrain
    by_length = {spec.length(one.shape, VARIANT): one for one in sets}
    train, random, count = FusedStep(spec.build(0)), np.random.default_rng(0), 4
    points = []
    for one in by_length.values():
        batch = make_batch(random_tokens(spec, [one] * count, random))
        train(batch)
        seconds = min(timed(lambda batch=batch: train(batch), "cpu") for _ in range(2))  # type: ignore[misc]
        points.append((PASSES_OF_TRAINING * count * spec.forward_flops(one.shape, VARIANT), seconds))
    rate, start_ms, worst = fit_line(np.array(points))
    return {"rate": rate, "start_ms": start_ms, "worst_residual": worst}


def fit_all_reduce() -> dict[str, float]:
    """Least squares of seconds = start + bytes / bandwidth over all-reduces of two processes; a ring of two moves as
    many bytes as the buffer has.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(time_all_reduce, (folder,), nprocs=2)
        points = np.load(f"{folder}/points.npy")
    bandwidth, start_ms, worst = fit_line(points)
    return {"bandwidth": bandwidth, "start_ms": start_ms, "worst_residual": worst}


def time_all_reduce(rank: int, folder: str) -> None:
    """One of two processes: the least seconds of the clock for each size, left in the folder by the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    points = []
    for size in REDUCED_BYTES:
        buffer, times = torch.zeros(size // 4), []
        for _ in range(6):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(buffer)
            times.append(time.perf_counter() - started)
        points.append((size, min(times)))
    if rank == 0:
        np.save(f"{folder}/points.npy", points)
    dist.destroy_process_group()


def fit_line(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """Work a second, start in ms and largest relative residual of points (work, seconds)."""
    work, seconds = points.T
    slope, start = np.polyfit(work, seconds, 1)
    residual = np.abs(start + slope * work - seconds) / seconds
    return float(1 / slope), float(1e3 * start), float(residual.max())


def simulate(
    spec: HeterCsiSpec, gradient: int, gpus: int, arguments: argparse.Namespace, device: Device, network: Network
) -> dict[str, Any]:
    """Mean milliseconds of a step in both orders."""
    seconds = compute_seconds(spec, gpus, arguments, device)
    random = np.random.default_rng(0)
    shuffled = np.stack([random.permutation(column) for column in seconds.T], axis=1)
    reduction = network.all_reduce(gradient, gpus)
    return {
        "gpus": gpus,
        "steps": len(seconds),
        "compute_ms": 1e3 * float(seconds.mean()),
        "all_reduce_ms": 1e3 * reduction,
        "lock_step_ms": 1e3 * (float(seconds.max(axis=1).mean()) + reduction),
        "independent_ms": 1e3 * (float(shuffled.max(axis=1).mean()) + reduction),
    }


def compute_seconds(
    spec: HeterCsiSpec, gpus: int, arguments: argparse.Namespace, device: Device
) -> NDArray[np.float64]:
    """Seconds [steps, GPUs] that each rank computes in each step of the schedule, its slice padded to its longest."""
    sets = load_preset("hetercsi").pretrain
    catalogue = catalogue_of_specs(sets, SAMPLES_A_SET)
    plan = make_plan(
        catalogue, method="optimal", buckets=arguments.buckets, batch=arguments.samples * gpus, partitions=gpus,
        constraints=Constraints(min_sources=2),
    )  # fmt: skip
    schedule = Schedule(catalogue=catalogue, plan=plan, seed=0, partitions=gpus, epochs=1)
    operations = np.array([PASSES_OF_TRAINING * spec.forward_flops(one.shape, VARIANT) for one in sets])
    steps = min(arguments.steps, schedule.steps(0))
    rows = []
    for step in range(steps):
        [piece] = schedule.global_step(0, step)
        dearest = operations[piece.source].reshape(gpus, -1).max(axis=1)
        rows.append(device.start + dearest * (len(piece.source) // gpus) / device.rate)
    return np.array(rows)


def print_table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The table on screen."""
    rate = "measured rate" if arguments.rate == "fit" else f"{arguments.rate} operations/s a GPU"
    table = Table(title=f"HeterCSI published, {arguments.samples} samples a GPU, {rate}")
    for column in ("GPUs", "compute ms", "all-reduce ms", "lock-step ms", "efficiency", "independent ms", "efficiency"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['gpus']:,}", f"{row['compute_ms']:.1f}", f"{row['all_reduce_ms']:.1f}",
            f"{row['lock_step_ms']:.1f}", f"{100 * row['lock_step_efficiency']:.0f} %",
            f"{row['independent_ms']:.1f}", f"{100 * row['independent_efficiency']:.0f} %",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
