"""Training and inference of WiMamba by sequence length: the published construction and ours.

    python benchmarks/wimamba_training.py [--device cuda] [--sequences 33 ... 4097] [--batch 4] [--compiled]
    python benchmarks/wimamba_training.py --mixed [--device cuda] [--batch 16]

Contestants as in wimamba_latency.py: WiMamba as published (two scans one after the other, the second between two flips)
and WiMamba here (both directions in one scan), on CUDA with each backend that runs, in bf16 (autocast), and with
--compiled in bf16 with compiled blocks, which take a while for each length; all of published size with patches of
4 x 4. A training step is forward, backward and AdamW;
inference encodes channels.
Contestants take turns, the least time of the repeats counts: seconds of one thread on a CPU, of the clock on CUDA.
kept MB: what the forward pass keeps for the backward pass, weights left out.

With --mixed: valid tokens a second of an epoch over snapshots of the 20 published sets, whose lengths are mixed, by
WiMamba here: padded (all sets together, in two buckets, in four) and packed. Of each bucket one batch of ``--batch``
samples, evenly spaced through it in order of length and padded to its longest, weighted by the bucket's samples.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from parts.record import record
from parts.timing import device_name, timed, use_one_thread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from wimamba_latency import left_out, make_model

from channels.presets import load_preset
from channels.spec import ChannelSpec
from models.interface import MaskDraw, ModelSpec, PackedBatch, TokenBatch, Tokens, collate
from models.layers.blocks import compile_blocks
from models.layers.packing import pack
from models.layers.parameters import optimizer_groups
from models.registry import make_spec
from samplers.catalogue import Catalogue, Source
from samplers.plan import Bucket, make_plan

PATCH = 4
SIDES = {33: (32, 16), 129: (64, 32), 513: (128, 64), 1025: (128, 128), 2049: (256, 128), 4097: (256, 256)}
"""Tokens, class token included -> subcarriers and antennas of a snapshot."""
CONTESTANTS = ("wimamba as published", "wimamba")
ON_CUDA = ("wimamba mamba_ssm", "wimamba bf16")
COMPILED = "wimamba compiled bf16"
MIXED = {
    "padded, all sets": {"strategy": "global"},
    "padded, 2 buckets": {"buckets": 2},
    "padded, 4 equal buckets": {"method": "equal", "buckets": 4},
    "padded, 4 buckets": {"buckets": 4},
    "packed, 4 buckets": {"strategy": "packed", "buckets": 4},
    "packed, all sets": {"strategy": "packed", "pack": "global"},
}
"""Contestants over mixed lengths, and their plans."""
PLANNED_BATCH, SAMPLES_A_SET = 128, 9000
Row = dict[str, Any]
Batch = TokenBatch | PackedBatch


def main() -> None:
    """Time both at every length, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sequences", type=int, nargs="+", default=sorted(SIDES), choices=sorted(SIDES))
    parser.add_argument("--batch", type=int, default=None, help="samples; 4, or 16 with --mixed")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="with compiled blocks, too")
    parser.add_argument("--mixed", action="store_true", help="padded and packed batches of mixed lengths")
    arguments = parser.parse_args()
    use_one_thread(arguments.device)
    arguments.batch = arguments.batch or (16 if arguments.mixed else 4)
    asked = {"batch": arguments.batch, "repeats": arguments.repeats, "device": device_name(arguments.device)}
    if arguments.mixed:
        rows = mixed_lengths(arguments)
        print_mixed(rows, f"WiMamba, published sets, patches of 4 x 4, {device_name(arguments.device)}")
        record("wimamba_training", asked | {"mixed": True}, rows)
        return
    rows = [row for tokens in arguments.sequences for row in compare(tokens, arguments)]
    print_table(rows, f"WiMamba, batch {arguments.batch}, {device_name(arguments.device)}")
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
        self.batch = in_form(collate, [self.model.spec.tokenise(channels, PATCH)]).to(device)
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


def in_form(form: Callable[..., Batch], parts: Sequence[Tokens]) -> Batch:
    """A batch of patched samples; form: ``collate`` or ``pack``."""
    count = sum(len(part.values) for part in parts)
    return form(parts, np.arange(count), np.ones(count, np.float32), PATCH)


def mixed_lengths(arguments: argparse.Namespace) -> list[Row]:
    """One line a contestant; they take turns, bucket by bucket."""
    sets = load_preset("wimamba").pretrain
    spec = make_spec("wimamba", {"patches": [PATCH]})
    lengths = [spec.length(one.shape, PATCH) for one in sets]
    catalogue = Catalogue([Source(one.name, length, SAMPLES_A_SET) for one, length in zip(sets, lengths, strict=True)])
    plans = {
        name: make_plan(catalogue, batch=PLANNED_BATCH, **({"method": "optimal"} | choices))  # type: ignore[arg-type]
        for name, choices in MIXED.items()
    }
    steps = {name: Step(spec, arguments.device) for name in plans}
    batches = {
        name: [batch_of(spec, sets, bucket, arguments, packed=plan.packed) for bucket in plan.buckets]
        for name, plan in plans.items()
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.repeats + 1):
        for name, of_buckets in batches.items():
            for number, batch in enumerate(of_buckets):
                call = partial(steps[name], batch)
                seconds.setdefault((name, number), []).append(timed(call, arguments.device))
    rows = []
    for name, plan in plans.items():
        share = [bucket.samples / arguments.batch for bucket in plan.buckets]
        valid = [valid_tokens(batch) for batch in batches[name]]
        computed = [
            count if plan.packed else arguments.batch * bucket.length
            for count, bucket in zip(valid, plan.buckets, strict=True)
        ]
        epoch = np.dot(share, [min(seconds[name, number][1:]) for number in range(len(valid))])
        padding = 100 * (1 - np.dot(share, valid) / np.dot(share, computed))
        speed = float(np.dot(share, valid) / epoch)
        rows.append({"contestant": name, "padding_percent": round(padding, 2), "valid_tokens_per_s": round(speed, 1)})
    return rows


class Step:
    """A training step of a model of its own."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self.model = spec.build(0).to(device).train()
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
        self.optimizer = torch.optim.AdamW(optimizer_groups(self.model, 0.05), lr=1e-4, fused=True)

    def __call__(self, batch: Batch) -> None:
        """Train on a batch."""
        with self.autocast:
            loss = self.model(batch, MaskDraw(seed=0, epoch=0))
        loss.sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def batch_of(
    spec: ModelSpec, sets: Sequence[ChannelSpec], bucket: Bucket, arguments: argparse.Namespace, *, packed: bool
) -> Batch:
    """Samples evenly spaced through a bucket in order of length, packed or padded to its longest."""
    spans = sorted(bucket.spans, key=lambda span: spec.length(sets[span.source].shape, PATCH))
    ends = np.cumsum([span.count for span in spans])
    places = (np.arange(arguments.batch) + 0.5) / arguments.batch * ends[-1]
    random = np.random.default_rng(0)
    parts = []
    for number in np.searchsorted(ends, places, side="right"):
        _, subcarriers, antennas = sets[spans[number].source].shape
        real, imaginary = random.normal(size=(2, 1, 1, subcarriers, antennas)).astype(np.float32)
        parts.append(spec.tokenise((real + 1j * imaginary).astype(np.complex64), PATCH))
    batch = in_form(pack if packed else collate, parts)
    if isinstance(batch, TokenBatch):
        # The class token is no token of the batch.
        missing = bucket.length - 1 - batch.tokens.shape[1]
        batch = replace(batch, tokens=torch.nn.functional.pad(batch.tokens, (0, 0, 0, missing)))
    return batch.to(arguments.device)


def valid_tokens(batch: Batch) -> int:
    """Of all samples, class tokens included."""
    return int(batch.grid.prod(1).sum()) + len(batch.grid)


def print_mixed(rows: list[Row], title: str) -> None:
    """The table on screen; the last columns compare with two and with four buckets."""
    speeds = {row["contestant"]: row["valid_tokens_per_s"] for row in rows}
    table = Table(title=title)
    for column in ("contestant", "padding %", "valid tokens/s", "of all sets", "of 2 buckets", "of 4 buckets"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        ratios = [
            f"{row['valid_tokens_per_s'] / speeds[f'padded, {other}']:.2f}x"
            for other in ("all sets", "2 buckets", "4 buckets")
        ]
        table.add_row(row["contestant"], f"{row['padding_percent']:.1f}", f"{row['valid_tokens_per_s']:,.0f}", *ratios)
    Console(width=110).print(table)


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
