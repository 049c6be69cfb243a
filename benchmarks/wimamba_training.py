"""Training and inference of WiMamba by sequence length: the published construction and ours.

    python benchmarks/wimamba_training.py [--device cuda] [--sequences 33 ... 4097] [--batch 4] [--compiled]

Contestants as in wimamba_latency.py: WiMamba as published (two scans one after the other, the second between two flips)
and WiMamba here (both directions in one scan), on CUDA with each backend that runs, in bf16 (autocast), and with
--compiled in bf16 with compiled blocks, which take a while for each length; all of published size with patches of
4 x 4. A training step is forward, backward and AdamW;
inference encodes channels.
Contestants take turns, the least time of the repeats counts: seconds of one thread on a CPU, of the clock on CUDA.
kept MB: what the forward pass keeps for the backward pass, weights left out.
"""

import argparse
from typing import Any

import numpy as np
import torch
from parts.record import record
from parts.timing import device_name, timed, use_one_thread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from wimamba_latency import left_out, make_model

from models.interface import MaskDraw, TokenBatch, collate
from models.layers.blocks import compile_blocks
from models.layers.parameters import optimizer_groups

PATCH = 4
SIDES = {33: (32, 16), 129: (64, 32), 513: (128, 64), 1025: (128, 128), 2049: (256, 128), 4097: (256, 256)}
"""Tokens, class token included -> subcarriers and antennas of a snapshot."""
CONTESTANTS = ("wimamba as published", "wimamba")
ON_CUDA = ("wimamba mamba_ssm", "wimamba bf16")
COMPILED = "wimamba compiled bf16"
Row = dict[str, Any]


def main() -> None:
    """Time both at every length, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sequences", type=int, nargs="+", default=sorted(SIDES), choices=sorted(SIDES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="with compiled blocks, too")
    arguments = parser.parse_args()
    use_one_thread(arguments.device)
    rows = [row for tokens in arguments.sequences for row in compare(tokens, arguments)]
    print_table(rows, f"WiMamba, batch {arguments.batch}, {device_name(arguments.device)}")
    asked = {"batch": arguments.batch, "repeats": arguments.repeats, "device": device_name(arguments.device)}
    record("wimamba_training", asked, rows)


def compare(tokens: int, arguments: argparse.Namespace) -> list[Row]:
    """The lines of one length."""
    draw = np.random.default_rng(0).normal(size=(2, arguments.batch, 1, *SIDES[tokens])).astype(np.float32)
    channels = (draw[0] + 1j * draw[1]).astype(np.complex64)
    names = contestants(arguments.device) + ([COMPILED] if arguments.compiled else [])
    runners = [Runner(name, channels, arguments.device) for name in names]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(arguments.repeats + 1):
        for name, runner in zip(names, runners, strict=True):
            times[name].append((timed(runner.train, arguments.device), timed(runner.infer, arguments.device)))
    rows = []
    for name, runner in zip(names, runners, strict=True):
        training, inference = (min(column) for column in zip(*times[name][1:], strict=True))
        row = {"tokens": tokens, "contestant": name, "train_ms": 1e3 * training, "infer_ms": 1e3 * inference}
        rows.append(row | {"kept_mb": runner.kept_bytes() / 1e6})
        print(f"{name}, {tokens} tokens: {row['train_ms']:.1f} ms a training step", flush=True)
    return rows


def contestants(device: str) -> list[str]:
    """Those that run on the device."""
    return [name for name in CONTESTANTS + (ON_CUDA if device == "cuda" else ()) if left_out(name) is None]


class Runner:
    """A contestant with its batch."""

    def __init__(self, name: str, channels: np.ndarray, device: str) -> None:
        self.device = device
        self.half = name.endswith("bf16")
        self.model = make_model(name, PATCH, device).to(device)
        if name == COMPILED:
            compile_blocks(self.model)
        count = len(channels)
        tokens = self.model.spec.tokenise(channels, PATCH)
        batch = collate([tokens], np.arange(count), np.ones(count, np.float32), PATCH)
        self.batch: TokenBatch = batch.to(device)
        self.channels = torch.from_numpy(channels[:, 0]).to(device)
        self.optimizer = torch.optim.AdamW(optimizer_groups(self.model, 0.05), lr=1e-4, fused=True)

    def train(self) -> None:
        """One training step."""
        self.model.train()
        self.forward().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self) -> Tensor:
        """The loss of the batch."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            loss: Tensor = self.model(self.batch, MaskDraw(seed=0, epoch=0))
        return loss

    @torch.no_grad()
    def infer(self) -> None:
        """Encode the channels."""
        self.model.eval()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            self.model.encode_channels(self.channels, PATCH)

    def kept_bytes(self) -> int:
        """Bytes of the distinct tensors that a forward pass keeps."""
        weights = {parameter.data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.data_ptr()] = tensor
            return tensor

        self.model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.forward()
        return sum(tensor.nbytes for tensor in kept.values())


def print_table(rows: list[Row], title: str) -> None:
    """The table on screen; the ratio is the published time over ours."""
    table = Table(title=title)
    for column in ("tokens", "contestant", "train ms", "ratio", "infer ms", "ratio", "kept MB"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        first = next(other for other in rows if other["tokens"] == row["tokens"])
        ratios = [first[field] / row[field] for field in ("train_ms", "infer_ms")]
        table.add_row(
            str(row["tokens"]), row["contestant"], f"{row['train_ms']:.1f}", f"{ratios[0]:.2f}x",
            f"{row['infer_ms']:.1f}", f"{ratios[1]:.2f}x", f"{row['kept_mb']:.1f}",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
