"""Training step of HeterCSI on the lengths of the 40 published sets: valid tokens a second of an epoch.

    python benchmarks/training_step.py [--device cuda] [--size published] [--samples 128] [--repeats 3]

Contestants: the published step (benchmarks/parts/published_step.py) with its strategies, global and equal buckets;
ours padded in optimal buckets; ours packed, inside four optimal buckets and from all sets.
Batches are of ``--samples`` samples, evenly spaced through the bucket in order of length and padded to its longest,
which the published batch of 128 seldom lacks: a small machine sees the padding of the whole batch. Contestants take
turns; of each bucket the least time of ``--repeats`` counts, weighted by the bucket's samples: seconds of one thread on
a CPU, where other work may be going on, of the clock on CUDA. Random channels; no communication, no loader. MFU: the
model's operations a second over the device's peak where it is known, on a CPU over those of its large matrix products.
On CUDA the published step runs in float16 autocast, ours in bfloat16 autocast, once more with compiled blocks. On a CPU
all compute in float32, ours once more in bfloat16 autocast.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from parts.published_step import PublishedStep
from parts.record import record
from parts.timing import device_name, matrix_rate, timed, use_one_thread
from rich.console import Console
from rich.table import Table

from channels.presets import load_preset
from channels.spec import ChannelSpec
from models.autoencoder.model import MaskedAutoencoder
from models.hetercsi.spec import HeterCsiSpec
from models.interface import MaskDraw, PackedBatch, TokenBatch, Tokens, collate
from models.layers.blocks import compile_blocks
from models.layers.masking import TASKS
from models.layers.packing import pack
from models.layers.parameters import optimizer_groups
from orchestrator.data.flops import PASSES_OF_TRAINING
from orchestrator.spec.train import TrainSection
from orchestrator.training.mfu import device_peak
from samplers.catalogue import catalogue_of_specs
from samplers.plan import Bucket, make_plan

BATCH = 128
SAMPLES_A_SET = 9000
VARIANT = 4


@dataclass(frozen=True)
class Load:
    """Work that stands for ``share`` samples of an epoch: each call trains on ``samples`` of them."""

    share: int
    samples: int
    valid: int
    computed: int
    operations: float
    call: Callable[[], object]


@dataclass
class Contestant:
    """A way to train, and what each of its buckets takes."""

    name: str
    loads: Sequence[Load]
    seconds: list[list[float]] = field(default_factory=list)

    def row(self, peak: float | None) -> dict[str, Any]:
        """Its line of the table: an epoch put together from the fastest call of each load."""
        weights = [load.share / load.samples for load in self.loads]
        best = [min(times) for times in self.seconds]
        valid = sum(weight * load.valid for weight, load in zip(weights, self.loads, strict=True))
        computed = sum(weight * load.computed for weight, load in zip(weights, self.loads, strict=True))
        seconds = sum(weight * least for weight, least in zip(weights, best, strict=True))
        operations = sum(weight * load.operations for weight, load in zip(weights, self.loads, strict=True))
        return {
            "contestant": self.name,
            "padding_percent": round(100 * (1 - valid / computed), 2),
            "valid_tokens_per_s": round(valid / seconds, 1),
            "epoch_s": round(seconds, 1),
            "mfu_percent": None if peak is None else round(100 * operations / seconds / peak, 1),
        }


def main() -> None:
    """Time all contestants in turn, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="tiny", choices=("tiny", "base", "published"))
    parser.add_argument("--samples", type=int, default=16, help=f"of each batch of {BATCH}, those computed")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    use_one_thread(arguments.device)
    spec = HeterCsiSpec(size=arguments.size)
    sets = load_preset("hetercsi").pretrain
    contestants = make_contestants(spec, sets, arguments)
    for contestant in contestants:
        contestant.seconds = [[] for _ in contestant.loads]
    for repeat in range(arguments.repeats + 1):
        for contestant in contestants:
            for load, times in zip(contestant.loads, contestant.seconds, strict=True):
                seconds = timed(load.call, arguments.device)
                if repeat or arguments.repeats == 1:
                    times.append(seconds)
    on_cpu = arguments.device == "cpu"
    peak = matrix_rate() if on_cpu else device_peak(arguments.device, TrainSection(precision="bf16"), None)
    rows = [contestant.row(peak) for contestant in contestants]
    device = device_name(arguments.device)
    print_table(rows, f"HeterCSI {arguments.size}, {len(sets)} sets, {device}")
    asked = {"size": arguments.size, "samples": arguments.samples, "repeats": arguments.repeats, "device": device,
             "peak_gflops": None if peak is None else round(peak / 1e9)}  # fmt: skip
    record("training_step", asked, rows)


def make_contestants(
    spec: HeterCsiSpec, sets: Sequence[ChannelSpec], arguments: argparse.Namespace
) -> list[Contestant]:
    """All ways to train, each with a model of its own."""
    catalogue = catalogue_of_specs(sets, SAMPLES_A_SET)
    plans = {
        "as published, global": make_plan(catalogue, strategy="global", batch=BATCH),
        "as published, B=4": make_plan(catalogue, method="equal", buckets=4, batch=BATCH),
        "as published, B=8": make_plan(catalogue, method="equal", buckets=8, batch=BATCH),
        "padded, B=4 optimal": make_plan(catalogue, method="optimal", buckets=4, batch=BATCH),
        "padded, B=7 optimal": make_plan(catalogue, method="optimal", buckets=7, batch=BATCH),
    }
    contestants = []
    for name, plan in plans.items():
        model = spec.build(0).to(arguments.device)
        train = PublishedStep(model) if name.startswith("as published") else FusedStep(model)
        random = np.random.default_rng(0)
        loads = [padded_load(spec, sets, bucket, train, random, arguments) for bucket in plan.buckets]
        contestants.append(Contestant(name, loads))
    packed = {"packed, B=4 buckets": "padded, B=4 optimal", "packed, all sets": "as published, global"}
    # On CUDA our steps are in bfloat16 anyway.
    more = "compiled" if arguments.device == "cuda" else "bf16"
    packed[f"packed, B=4 buckets, {more}"] = "padded, B=4 optimal"
    for name, origin in packed.items():
        model = spec.build(0).to(arguments.device)
        step = FusedStep(model, compiled=name.endswith("compiled"), bf16=name.endswith("bf16"))
        random = np.random.default_rng(0)
        loads = [packed_load(spec, sets, bucket, step, random, arguments) for bucket in plans[origin].buckets]
        contestants.append(Contestant(name, loads))
    return contestants


class FusedStep:
    """Our step: the three tasks in one pass, one optimizer step, nothing read by the host."""

    def __init__(self, model: MaskedAutoencoder, compiled: bool = False, bf16: bool = False) -> None:
        self.model = model
        if compiled:
            compile_blocks(model, packed=True)
        on_gpu = next(model.parameters()).is_cuda
        self.autocast = torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu or bf16)
        self.optimizer = torch.optim.AdamW(optimizer_groups(model, 0.05), lr=8e-4, betas=(0.9, 0.95), fused=True)

    def __call__(self, batch: TokenBatch | PackedBatch) -> None:
        """Train on a batch."""
        with self.autocast:
            sums = self.model(batch, MaskDraw(seed=0, epoch=0))
        (sums.sum() / (len(TASKS) * batch.tokens.shape[:-1].numel())).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def padded_load(
    spec: HeterCsiSpec,
    sets: Sequence[ChannelSpec],
    bucket: Bucket,
    train: Callable[[TokenBatch], object],
    random: np.random.Generator,
    arguments: argparse.Namespace,
) -> Load:
    """A batch of a bucket, padded to the bucket's longest, which a batch of 128 seldom lacks."""
    chosen = [sets[source] for source in spread(bucket, arguments.samples, lengths_of(spec, sets))]
    parts = random_tokens(spec, chosen, random)
    batch = stretch(make_batch(parts), bucket.length).to(arguments.device)
    computed = len(batch.lengths) * bucket.length
    valid, operations = int(batch.lengths.sum()), training_operations(spec, chosen)
    return Load(bucket.samples, len(chosen), valid, computed, operations, lambda: train(batch))


def packed_load(
    spec: HeterCsiSpec,
    sets: Sequence[ChannelSpec],
    bucket: Bucket,
    train: Callable[[PackedBatch], object],
    random: np.random.Generator,
    arguments: argparse.Namespace,
) -> Load:
    """A packed batch of samples of a bucket."""
    chosen = [sets[source] for source in spread(bucket, arguments.samples, lengths_of(spec, sets))]
    parts = random_tokens(spec, chosen, random)
    batch = pack(parts, np.arange(len(parts)), np.ones(len(parts), np.float32), VARIANT).to(arguments.device)
    tokens = len(batch.tokens)
    return Load(bucket.samples, len(chosen), tokens, tokens, training_operations(spec, chosen), lambda: train(batch))


def lengths_of(spec: HeterCsiSpec, sets: Sequence[ChannelSpec]) -> list[int]:
    """Tokens of a sample of each set."""
    return [spec.length(one.shape, VARIANT) for one in sets]


def training_operations(spec: HeterCsiSpec, chosen: Sequence[ChannelSpec]) -> float:
    """Operations to train on one sample of each set named, by the model's formula, nothing padded."""
    return PASSES_OF_TRAINING * sum(spec.forward_flops(one.shape, VARIANT) for one in chosen)


def spread(bucket: Bucket, samples: int, lengths: Sequence[int]) -> list[int]:
    """Sources of so many samples, evenly spaced through the bucket's samples in order of length."""
    spans = sorted(bucket.spans, key=lambda span: lengths[span.source])
    ends = np.cumsum([span.count for span in spans])
    places = (np.arange(samples) + 0.5) / samples * ends[-1]
    return [spans[number].source for number in np.searchsorted(ends, places, side="right")]


def random_tokens(spec: HeterCsiSpec, chosen: Sequence[ChannelSpec], random: np.random.Generator) -> list[Tokens]:
    """Patched samples of random unit-power channels, one of each set named."""
    parts = []
    for one in chosen:
        real, imaginary = random.normal(size=(2, 1, *one.shape)).astype(np.float32) / np.float32(2**0.5)
        parts.append(spec.tokenise((real + 1j * imaginary).astype(np.complex64), VARIANT))
    return parts


def make_batch(parts: Sequence[Tokens]) -> TokenBatch:
    """One padded batch of them."""
    return collate(parts, np.arange(len(parts)), np.ones(len(parts), np.float32), VARIANT)


def stretch(batch: TokenBatch, longest: int) -> TokenBatch:
    """The same batch padded to a longer sample that lies in another part of it."""
    missing = longest - batch.tokens.shape[1]
    return replace(batch, tokens=torch.nn.functional.pad(batch.tokens, (0, 0, 0, missing)))


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """The table on screen; the last column compares with the published step in four buckets."""
    baseline = next(row for row in rows if row["contestant"] == "as published, B=4")["valid_tokens_per_s"]
    table = Table(title=title)
    for column in ("contestant", "padding %", "valid tokens/s", "epoch s", "MFU %", "against published, B=4"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for row in rows:
        speed = row["valid_tokens_per_s"]
        table.add_row(
            row["contestant"], f"{row['padding_percent']:.2f}", f"{speed:,.0f}", f"{row['epoch_s']:,.0f}",
            "" if row["mfu_percent"] is None else f"{row['mfu_percent']:.1f}", f"{speed / baseline:.2f}x",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
