"""Latency and peak memory of encoders on a 240 x 240 channel, as in Table I of the WiMamba paper.

    python benchmarks/wimamba_latency.py [--device cuda] [--patches 4 6 8] [--repeats 10]

Batch 4, float32, no gradients, one model for each patch side. Contestants: the transformer with the published attention
(the whole map in memory) and with fused attention; WiMamba as published (two scans one after the other, the second
between two flips; with mamba-ssm's own blocks on CUDA, with the chunked PyTorch scan elsewhere); WiMamba here (both
directions in one scan), on CUDA also replayed from a CUDA graph. ms: median and standard deviation of the repeats. MB:
on CUDA the most memory allocated, weights included; on the CPU the growth of the process, which is a new one for each
line. published: the table of the paper, on an RTX 3060.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from models.scan.backends import choose_backend
from models.scan.mamba_kernel import missing_kernel
from models.scan.operations import selective_scan, short_convolution
from models.snapshot.lwm import LwmSpec
from models.snapshot.mamba_layers import BidirectionalMamba, grouped_linear
from models.snapshot.model import SnapshotModel
from models.snapshot.wimamba import WiMambaSpec

BATCH, SIDE = 4, 240
PUBLISHED = {
    ("transformer naive", 4): (363.59, 4836.63),
    ("transformer naive", 6): (79.15, 1002.19),
    ("transformer naive", 8): (29.42, 355.67),
    ("wimamba as published", 4): (23.70, 114.40),
    ("wimamba as published", 6): (16.17, 75.38),
    ("wimamba as published", 8): (16.21, 62.41),
}
CONTESTANTS = ("transformer naive", "transformer fused", "wimamba as published", "wimamba", "wimamba graph")
Row = dict[str, Any]


def main() -> None:
    """Run every contestant in a process of its own, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--patches", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--contestant", help="run one contestant here and print its line as JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error(f"--repeats {arguments.repeats}: a deviation needs at least 2")
    if arguments.contestant:
        print(json.dumps(contest(arguments)))
        return
    names = [name for name in CONTESTANTS if arguments.device == "cuda" or name != "wimamba graph"]
    rows = [apart(name, patch, arguments) for patch in arguments.patches for name in names]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {arguments.threads} threads"
    print_table(rows, device)
    record("wimamba_latency", {"batch": BATCH, "side": SIDE, "device": device, "repeats": arguments.repeats}, rows)


def apart(name: str, patch: int, arguments: argparse.Namespace) -> Row:
    """The line of one contestant, made in another process."""
    numbers = ["--patches", patch, "--repeats", arguments.repeats, "--threads", arguments.threads]
    command = [sys.executable, __file__, "--contestant", name, "--device", arguments.device, *map(str, numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}, patch {patch}: {row['ms']:.2f} ms", flush=True)
    return row


@torch.no_grad()
def contest(arguments: argparse.Namespace) -> Row:
    """The line of one contestant."""
    torch.set_num_threads(arguments.threads)
    name, patch, device = arguments.contestant, arguments.patches[0], arguments.device
    channels = torch.randn(BATCH, SIDE, SIDE, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = make_model(name, patch).to(device).eval()
    encode = encoder(name, model, channels.to(device), patch)
    seconds = repeat(encode, arguments.repeats, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "contestant": name,
        "patch": patch,
        "tokens": model.spec.length((1, SIDE, SIDE), patch),
        "ms": 1e3 * statistics.median(seconds),
        "sd_ms": 1e3 * statistics.stdev(seconds),
        "mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak * 1024 / 1e6,
    }


def make_model(name: str, patch: int) -> SnapshotModel:
    """A contestant with one patch side."""
    if name.startswith("transformer"):
        attention = "naive" if name.endswith("naive") else "fast"
        return LwmSpec(patches=(patch,), positions=(SIDE // patch) ** 2 + 10, attention=attention).build(0)
    model = WiMambaSpec(patches=(patch,)).build(0)
    if name.endswith("published"):
        for layer in model.backbone.layers:
            layer.mamba = kernel_blocks(layer.mamba) if missing_kernel() is None else TwoScans(layer.mamba)
    return model


def encoder(name: str, model: SnapshotModel, channels: Tensor, patch: int) -> Callable[[], object]:
    """What is timed."""
    if name != "wimamba graph":
        return lambda: model.encode(channels, patch)
    for _ in range(3):
        model.encode(channels, patch)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.encode(channels, patch)
    return graph.replay


def repeat(encode: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Seconds of each repeat, after warming up."""
    warm_ups = 10 if device == "cuda" else 1
    seconds = []
    for index in range(warm_ups + repeats):
        start = time.perf_counter()
        encode()
        if device == "cuda":
            torch.cuda.synchronize()
        if index >= warm_ups:
            seconds.append(time.perf_counter() - start)
    return seconds


class TwoScans(nn.Module):
    """The published construction in PyTorch: one direction after the other, the backward one between two flips."""

    def __init__(self, mamba: BidirectionalMamba) -> None:
        super().__init__()
        self.mamba = mamba

    def forward(self, halves: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, L, width] of tokens [B, L, 2, width / 2]."""
        assert lengths is None, "the published construction knows no padding"
        forward, backward = halves.unbind(2)
        turned = self._direction(backward.flip(1), 1).flip(1)
        return torch.cat([self._direction(forward, 0), turned], dim=-1)

    def _direction(self, tokens: Tensor, index: int) -> Tensor:
        mamba, size, one = self.mamba, self.mamba.size, slice(index, index + 1)
        backend = choose_backend(tokens.device.type, "torch")
        conv_bias, step_bias, skip = (part.view(2, -1)[one] for part in (mamba.conv_bias, mamba.step_bias, mamba.skip))
        rates = -mamba.log_decay.exp().view(2, size.inner, size.state)[one]
        channels, gate = grouped_linear(tokens[:, :, None], mamba.in_weight[one]).chunk(2, dim=-1)
        channels = short_convolution(channels, mamba.conv_weight[one], conv_bias, backend=backend)
        selected = grouped_linear(channels, mamba.select_weight[one])
        step, source, readout = torch.split(selected, [size.rank, size.state, size.state], dim=-1)
        steps = grouped_linear(step, mamba.step_weight[one])
        mixed = selective_scan(channels, steps, rates, source, readout, skip, gate, step_bias, backend=backend)
        return grouped_linear(mixed, mamba.out_weight[one]).flatten(2)


class KernelBlocks(nn.Module):
    """The published construction on CUDA: two blocks of mamba-ssm, the second between two flips."""

    def __init__(self, size: int, state: int, conv: int) -> None:
        from mamba_ssm import Mamba

        super().__init__()
        self.forwards, self.backwards = (Mamba(size, d_state=state, d_conv=conv, expand=1.2) for _ in range(2))

    def forward(self, halves: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, L, width] of tokens [B, L, 2, width / 2]."""
        assert lengths is None, "the published construction knows no padding"
        forward, backward = (half.contiguous() for half in halves.unbind(2))
        return torch.cat([self.forwards(forward), self.backwards(backward.flip(1)).flip(1)], dim=-1)


def kernel_blocks(mamba: BidirectionalMamba) -> KernelBlocks:
    """Blocks of the same dimensions (with weights of their own: only time and memory are compared)."""
    return KernelBlocks(mamba.size.half, mamba.size.state, mamba.size.conv)


def print_table(rows: list[Row], device: str) -> None:
    """The table on screen."""
    table = Table(title=f"{SIDE} x {SIDE} channel, batch {BATCH}, {device}")
    for column in ("patch", "tokens", "contestant", "ms", "sd", "MB", "published ms", "published MB"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        published = PUBLISHED.get((row["contestant"], row["patch"]))
        known = [f"{value:.2f}" for value in published] if published else ["", ""]
        numbers = [f"{row['ms']:.2f}", f"{row['sd_ms']:.2f}", f"{row['mb']:.0f}"]
        table.add_row(str(row["patch"]), str(row["tokens"]), row["contestant"], *numbers, *known)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
