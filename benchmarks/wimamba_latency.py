"""Latency and peak memory of encoders on a 240 x 240 channel, as in Table I of the WiMamba paper.

    python benchmarks/wimamba_latency.py [--device cuda] [--patches 4 6 8] [--repeats 10]

Batch 4, no gradients, one model for each patch side, float32 unless a line says bf16. Contestants: the transformer with
the published attention (the whole map in memory) and with fused attention; WiMamba as published (two scans one after
the other, the second between two flips: mamba-ssm's own blocks where the package imports, else the same by its compiled
operations, by Triton's, on a CPU by the chunked PyTorch scan); WiMamba here (both directions in one scan), on CUDA with
each backend that runs, in bf16, and replayed from a CUDA graph. ms: median and standard deviation of the repeats.
speedup: over WiMamba as published. MB: on CUDA the most memory allocated, weights included; on the CPU the growth of
the process, which is a new one for each line. published: the table of the paper, on an RTX 3060.
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
from parts.record import record
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from channels.errors import UserError
from models.layers.parameters import cast_parameters
from models.scan.backends import Wanted, choose_backend
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend
from models.snapshot.graphs import GraphedEncode
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
CONTESTANTS = ("transformer naive", "transformer fused", "wimamba as published", "wimamba")
ON_CUDA = ("wimamba triton", "wimamba mamba_ssm", "wimamba bf16", "wimamba graph", "wimamba graph bf16")
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
    rows = [row for patch in arguments.patches for row in compare(patch, arguments)]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {arguments.threads} threads"
    print_table(rows, device)
    record("wimamba_latency", {"batch": BATCH, "side": SIDE, "device": device, "repeats": arguments.repeats}, rows)


def compare(patch: int, arguments: argparse.Namespace) -> list[Row]:
    """The lines of one patch side: in one process on CUDA, which counts its memory itself, else each in its own."""
    rows = []
    for name in CONTESTANTS + (ON_CUDA if arguments.device == "cuda" else ()):
        if arguments.device == "cuda":
            if (reason := left_out(name)) is not None:
                print(f"{name} is left out: {reason}", flush=True)
                continue
            chosen = argparse.Namespace(**vars(arguments) | {"contestant": name, "patches": [patch]})
            row = contest(chosen)
        else:
            row = apart(name, patch, arguments)
        print(f"{name}, patch {patch}: {row['ms']:.2f} ms", flush=True)
        rows.append(row)
    return rows


def left_out(name: str) -> str | None:
    """Why a contestant cannot run on CUDA, or None."""
    backend = name.rpartition(" ")[2]
    try:
        if backend in ("triton", "mamba_ssm"):
            choose_backend("cuda", backend)  # type: ignore[arg-type]
    except UserError as error:
        return str(error)
    return None


def apart(name: str, patch: int, arguments: argparse.Namespace) -> Row:
    """The line of one contestant, made in another process."""
    numbers = ["--patches", patch, "--repeats", arguments.repeats, "--threads", arguments.threads]
    command = [sys.executable, __file__, "--contestant", name, "--device", arguments.device, *map(str, numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


@torch.no_grad()
def contest(arguments: argparse.Namespace) -> Row:
    """The line of one contestant."""
    torch.set_num_threads(arguments.threads)
    name, patch, device = arguments.contestant, arguments.patches[0], arguments.device
    channels = torch.randn(BATCH, SIDE, SIDE, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = make_model(name, patch, device).to(device).eval()
    if name.endswith("bf16"):
        cast_parameters(model, torch.bfloat16)
    encode = encoder(name, model, channels.to(device), patch)
    seconds = repeat(encode, arguments.repeats, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "contestant": name,
        "patch": patch,
        "tokens": model.spec.length((1, SIDE, SIDE), patch),
        "runs": published_by(model) if name.endswith("published") else "",
        "ms": 1e3 * statistics.median(seconds),
        "sd_ms": 1e3 * statistics.stdev(seconds),
        "mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak * 1024 / 1e6,
    }


def make_model(name: str, patch: int, device: str) -> SnapshotModel:
    """A contestant with one patch side, on the CPU."""
    if name.startswith("transformer"):
        attention = "naive" if name.endswith("naive") else "fast"
        return LwmSpec(patches=(patch,), positions=(SIDE // patch) ** 2 + 10, attention=attention).build(0)
    last = name.rpartition(" ")[2]
    scan: Wanted = last if last in ("triton", "mamba_ssm") else "auto"  # type: ignore[assignment]
    model = WiMambaSpec(patches=(patch,), scan=scan).build(0)
    if name.endswith("published"):
        for layer in model.backbone.layers:
            layer.mamba = published_mamba(layer.mamba, device)
    return model


def encoder(name: str, model: SnapshotModel, channels: Tensor, patch: int) -> Callable[[], object]:
    """What is timed."""
    encode = GraphedEncode(model) if "graph" in name else model.encode_channels
    return lambda: encode(channels, patch)


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
    """The published construction: one direction after the other, the backward one between two flips."""

    def __init__(self, mamba: BidirectionalMamba, backend: Backend) -> None:
        super().__init__()
        self.mamba = mamba
        self.backend = backend

    def forward(self, halves: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, L, width] of tokens [B, L, 2, width / 2]."""
        assert lengths is None, "the published construction knows no padding"
        forward, backward = halves.unbind(2)
        turned = self._direction(backward.flip(1), 1).flip(1)
        return torch.cat([self._direction(forward, 0), turned], dim=-1)

    def _direction(self, tokens: Tensor, index: int) -> Tensor:
        mamba, size, one = self.mamba, self.mamba.size, slice(index, index + 1)
        backend = self.backend
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

    def __init__(self, block: Callable[..., nn.Module], size: int, state: int, conv: int) -> None:
        super().__init__()
        self.forwards, self.backwards = (block(size, d_state=state, d_conv=conv, expand=1.2) for _ in range(2))

    def forward(self, halves: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, L, width] of tokens [B, L, 2, width / 2]."""
        assert lengths is None, "the published construction knows no padding"
        forward, backward = (half.contiguous() for half in halves.unbind(2))
        return torch.cat([self.forwards(forward), self.backwards(backward.flip(1)).flip(1)], dim=-1)


def published_mamba(mamba: BidirectionalMamba, device: str) -> nn.Module:
    """The published form of both directions, by the best that runs: blocks of mamba-ssm, its operations, Triton's.

    Blocks have the same dimensions and weights of their own: only time and memory are compared.
    """
    if device == "cpu":
        return TwoScans(mamba, choose_backend("cpu", "torch"))
    if left_out("mamba_ssm") is not None:
        return TwoScans(mamba, choose_backend("cuda", "auto"))
    try:
        from mamba_ssm import Mamba
    except ImportError:  # The package wants transformers, its operations do not.
        return TwoScans(mamba, choose_backend("cuda", "mamba_ssm"))
    return KernelBlocks(Mamba, mamba.size.half, mamba.size.state, mamba.size.conv)


def published_by(model: SnapshotModel) -> str:
    """What the published form of a model runs on."""
    mamba = model.backbone.layers[0].mamba
    return f"two scans, {mamba.backend.name}" if isinstance(mamba, TwoScans) else "blocks of mamba_ssm"


def print_table(rows: list[Row], device: str) -> None:
    """The table on screen."""
    table = Table(title=f"{SIDE} x {SIDE} channel, batch {BATCH}, {device}")
    for column in ("patch", "tokens", "contestant", "ms", "sd", "speedup", "MB", "published ms", "published MB"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        published = PUBLISHED.get((row["contestant"], row["patch"]))
        known = [f"{value:.2f}" for value in published] if published else ["", ""]
        base = next(
            other for other in rows if other["patch"] == row["patch"] and other["contestant"].endswith("published")
        )
        numbers = [f"{row['ms']:.2f}", f"{row['sd_ms']:.2f}", f"{base['ms'] / row['ms']:.1f}x", f"{row['mb']:.0f}"]
        contestant = f"{row['contestant']} ({row['runs']})" if row["runs"] else row["contestant"]
        table.add_row(str(row["patch"]), str(row["tokens"]), contestant, *numbers, *known)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
