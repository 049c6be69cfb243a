"""Selective scans, forward and backward: every backend of a device, and on the CPU mambapy's and the literal loop.

    pip install --no-deps --target /tmp/mambapy mambapy==1.2.0
    python benchmarks/scan_speed.py --mambapy /tmp/mambapy
    python benchmarks/scan_speed.py --device cuda

Batch 8, length 1,024, 128 channels, 16 states, float32; on CUDA once more with series in bfloat16. seconds: median of
the repeats, contestants in turn. kept: what the forward pass of one sample keeps for the backward pass, at this length
and at four times it. error: of output and gradients against the sequential reference in float64, each relative to its
largest value, on one sample.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from parts.record import record
from parts.timing import device_name
from rich.console import Console
from rich.table import Table
from torch import Tensor

from channels.errors import UserError
from models.scan.backends import choose_backend
from models.scan.chunked import chunked_scan
from models.scan.problem import ScanProblem

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.models.scan.sequential import sequential_scan

BATCH, LENGTH, CHANNELS, STATES = 8, 1024, 128, 16
HALF = "bf16"
Scan = Callable[[ScanProblem], Tensor]


def main() -> None:
    """Run the contestants, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--mambapy", help="folder that holds the package mambapy; without it the row is left out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    scans = on_cuda() if device == "cuda" else contestants(arguments.mambapy)
    seconds = measure(scans, device, arguments.repeats)
    rows = [row(name, scan, seconds[name], device) for name, scan in scans.items()]
    print_table(rows)
    if arguments.mambapy:
        ratio = statistics.median(seconds["mambapy"]) / statistics.median(seconds["native"])
        print(f"native is {ratio:.1f} times as fast as mambapy")
    sizes = {"batch": BATCH, "length": LENGTH, "channels": CHANNELS, "states": STATES}
    record(
        "scan_speed",
        sizes
        | {
            "device": "cpu" if device == "cpu" else device_name(device),
            "threads": arguments.threads,
            "repeats": arguments.repeats,
        },
        rows,
    )


def contestants(mambapy: str | None) -> dict[str, Scan]:
    """Scans by name."""
    scans = {"native": choose_backend("cpu", "native").scan, "torch chunked": chunked_scan, "loop": sequential_scan}
    if mambapy is None:
        print("mambapy is left out; see --help")
        return scans
    sys.path.insert(0, mambapy)
    return scans | {"mambapy": mambapy_scan}


def on_cuda() -> dict[str, Scan]:
    """Each backend that runs, by name; those that take bfloat16 once more."""
    scans = {}
    for wanted in ("triton", "mamba_ssm", "torch"):
        try:
            backend = choose_backend("cuda", wanted)
        except UserError as error:
            print(f"{wanted} is left out: {error}")
            continue
        scans |= {wanted: backend.scan} | ({f"{wanted} {HALF}": backend.scan} if backend.half else {})
    return scans


def mambapy_scan(problem: ScanProblem) -> Tensor:
    """The scan of a mambapy block: its parallel scan over the whole decays and inputs, in one direction."""
    from mambapy.pscan import pscan

    u, steps, B, C = (part[:, :, 0] for part in (problem.u, problem.steps, problem.B, problem.C))
    decays = torch.exp(steps[..., None] * problem.A[0])
    states = pscan(decays, (steps * u)[..., None] * B[:, :, None])
    return ((states @ C[..., None]).squeeze(-1) + problem.D[0] * u)[:, :, None]


def make_problem(
    batch: int, length: int, device: str = "cpu", dtype: torch.dtype = torch.float32, half: bool = False
) -> ScanProblem:
    """Operands as a fresh Mamba has them: step sizes around 0.001 to 0.1, decays of 1 to 16 a unit of time."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator).to(dtype)
        return (drawn.bfloat16() if half else drawn).to(device).requires_grad_()

    u, delta = draw(batch, length, 1, CHANNELS), draw(batch, length, 1, CHANNELS)
    B, C = draw(batch, length, 1, STATES), draw(batch, length, 1, STATES)
    steps = torch.logspace(-3, -1, CHANNELS).expm1().log().to(device, dtype)[None].requires_grad_()
    rates = -torch.arange(1.0, STATES + 1).repeat(1, CHANNELS, 1).to(device, dtype)
    return ScanProblem(
        u=u,
        delta=delta,
        A=rates.requires_grad_(),
        B=B,
        C=C,
        D=torch.ones(1, CHANNELS, dtype=dtype, device=device, requires_grad=True),
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


def measure(scans: dict[str, Scan], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of forward and backward, all contestants once in each round; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in scans}
    problems = {half: make_problem(BATCH, LENGTH, device, half=half) for half in (False, True)}
    for round_ in range(repeats + 1):
        for name, scan in scans.items():
            start = now(device)
            run(scan, problems[name.endswith(HALF)])
            if round_:
                seconds[name].append(now(device) - start)
    return seconds


def now(device: str) -> float:
    """Seconds of the clock, all work done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def row(name: str, scan: Scan, seconds: list[float], device: str) -> dict[str, Any]:
    """A line of the table."""
    half = name.endswith(HALF)
    small, large = (kept_mib(scan, make_problem(1, length, device, half=half)) for length in (LENGTH, 4 * LENGTH))
    return {
        "scan": name,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "kept_mib": small,
        "kept_mib_4x": large,
        "error": error(scan, device, half),
    }


def kept_mib(scan: Scan, problem: ScanProblem) -> float:
    """Storage that the graph of one sample keeps alive, operands included."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = scan(problem)
    assert out.requires_grad
    return sum(storages.values()) / 2**20


def error(scan: Scan, device: str, half: bool) -> float:
    """Largest relative error of output and gradients."""
    expected = run(sequential_scan, make_problem(1, LENGTH, dtype=torch.float64, half=False))
    found = [part.cpu().double() for part in run(scan, make_problem(1, LENGTH, device, half=half))]
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
