"""Selective scans on the CPU, forward and backward: C, chunked PyTorch, mambapy's parallel scan, the literal loop.

    pip install --no-deps --target /tmp/mambapy mambapy==1.2.0
    python benchmarks/scan_speed.py --mambapy /tmp/mambapy

Batch 8, length 1,024, 128 channels, 16 states, float32. seconds: median of the repeats, contestants in turn. kept: what
the forward pass of one sample keeps for the backward pass, at this length and at four times it. error: of output and
gradients against the sequential reference in float64, each relative to its largest value, on one sample.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.scan.backends import choose_backend
from models.scan.chunked import chunked_scan
from models.scan.problem import ScanProblem

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.models.scan.sequential import sequential_scan

BATCH, LENGTH, CHANNELS, STATES = 8, 1024, 128, 16
Scan = Callable[[ScanProblem], Tensor]


def main() -> None:
    """Run the contestants, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mambapy", help="folder that holds the package mambapy; without it the row is left out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scans = contestants(arguments.mambapy)
    seconds = measure(scans, make_problem(BATCH, LENGTH), arguments.repeats)
    rows = [row(name, scan, seconds[name]) for name, scan in scans.items()]
    print_table(rows)
    if arguments.mambapy:
        ratio = statistics.median(seconds["mambapy"]) / statistics.median(seconds["native"])
        print(f"native is {ratio:.1f} times as fast as mambapy")
    sizes = {"batch": BATCH, "length": LENGTH, "channels": CHANNELS, "states": STATES}
    record("scan_speed", sizes | {"threads": arguments.threads, "repeats": arguments.repeats}, rows)


def contestants(mambapy: str | None) -> dict[str, Scan]:
    """Scans by name."""
    scans = {"native": choose_backend("cpu", "native").scan, "torch chunked": chunked_scan, "loop": sequential_scan}
    if mambapy is None:
        print("mambapy is left out; see --help")
        return scans
    sys.path.insert(0, mambapy)
    return scans | {"mambapy": mambapy_scan}


def mambapy_scan(problem: ScanProblem) -> Tensor:
    """The scan of a mambapy block: its parallel scan over the whole decays and inputs, in one direction."""
    from mambapy.pscan import pscan

    u, steps, B, C = (part[:, :, 0] for part in (problem.u, problem.steps, problem.B, problem.C))
    decays = torch.exp(steps[..., None] * problem.A[0])
    states = pscan(decays, (steps * u)[..., None] * B[:, :, None])
    return ((states @ C[..., None]).squeeze(-1) + problem.D[0] * u)[:, :, None]


def make_problem(batch: int, length: int, dtype: torch.dtype = torch.float32) -> ScanProblem:
    """Operands as a fresh Mamba has them: step sizes around 0.001 to 0.1, decays of 1 to 16 a unit of time."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    u, delta = draw(batch, length, 1, CHANNELS), draw(batch, length, 1, CHANNELS)
    B, C = draw(batch, length, 1, STATES), draw(batch, length, 1, STATES)
    steps = torch.logspace(-3, -1, CHANNELS).expm1().log().to(dtype)[None].requires_grad_()
    rates = -torch.arange(1.0, STATES + 1).repeat(1, CHANNELS, 1).to(dtype)
    return ScanProblem(
        u=u,
        delta=delta,
        A=rates.requires_grad_(),
        B=B,
        C=C,
        D=torch.ones(1, CHANNELS, dtype=dtype, requires_grad=True),
        z=None,
        delta_bias=steps,
        softplus=True,
        reverse=(False,),
        lengths=None,
    )


def leaves(problem: ScanProblem) -> list[Tensor]:
    """What gradients are taken for."""
    assert problem.delta_bias is not None
    return [problem.u, problem.delta, problem.A, problem.B, problem.C, problem.D, problem.delta_bias]


def run(scan: Scan, problem: ScanProblem) -> list[Tensor]:
    """Output and gradients."""
    out = scan(problem)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves(problem))]


def measure(scans: dict[str, Scan], problem: ScanProblem, repeats: int) -> dict[str, list[float]]:
    """Seconds of forward and backward, all contestants once in each round; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in scans}
    for round_ in range(repeats + 1):
        for name, scan in scans.items():
            start = time.perf_counter()
            run(scan, problem)
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(name: str, scan: Scan, seconds: list[float]) -> dict[str, Any]:
    """A line of the table."""
    small, large = (kept_mib(scan, length) for length in (LENGTH, 4 * LENGTH))
    return {
        "scan": name,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "kept_mib": small,
        "kept_mib_4x": large,
        "error": error(scan),
    }


def kept_mib(scan: Scan, length: int) -> float:
    """Storage that the graph of one sample keeps alive, operands included."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = scan(make_problem(1, length))
    assert out.requires_grad
    return sum(storages.values()) / 2**20


def error(scan: Scan) -> float:
    """Largest relative error of output and gradients."""
    expected = run(sequential_scan, make_problem(1, LENGTH, torch.float64))
    found = run(scan, make_problem(1, LENGTH))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table on screen."""
    table = Table(title=f"forward + backward, batch {BATCH}, length {LENGTH}, {CHANNELS} channels, {STATES} states")
    for column in ("scan", "seconds", "fastest", "kept MiB a sample", "kept MiB at 4 L", "error"):
        table.add_column(column, justify="left" if column == "scan" else "right")
    for line in rows:
        kept = f"{line['kept_mib']:.1f}", f"{line['kept_mib_4x']:.1f}"
        table.add_row(line["scan"], f"{line['seconds']:.4f}", f"{line['fastest']:.4f}", *kept, f"{line['error']:.1e}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
