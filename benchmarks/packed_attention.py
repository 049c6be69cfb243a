"""Attention over sequences of unequal length on the CPU, forward and backward: packed by length, padded, masked whole.

    python benchmarks/packed_attention.py
    python benchmarks/packed_attention.py --flex     # FlexAttention too: compiles for minutes, forward only on a CPU

Samples of the 40 pre-training sets of HeterCSI, drawn with a seed, all decoder tokens of size tiny. Contestants run in
turn; cpu_ms is the least processor time of the repeats, and speed is relative to the padded batch of the same run.
``packed``: a fused call for each distinct length (models.layers.packed_attention). ``padded``: one call on the batch
padded to its longest, padding masked. ``masked``: one call on all tokens end to end under a block-diagonal mask.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from parts.record import record
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from channels.presets import load_preset
from models.layers.packed_attention import grouped_attention
from models.layers.packing import Sequences
from samplers.catalogue import catalogue_of_specs

HEADS, WIDTH = 4, 16
TOLERANCE = 1e-4
Contestant = Callable[[Tensor], Tensor]


def main() -> None:
    """Run the contestants, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flex", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lengths = draw_lengths(arguments.samples)
    sequences = Sequences.of(torch.from_numpy(lengths), Counter(lengths.tolist()))
    qkv = torch.randn(sequences.rows, 3, HEADS, WIDTH, generator=torch.Generator().manual_seed(0))
    contestants = {"padded": padded(sequences), "packed": packed(sequences), "masked": masked(sequences)}
    rows = measure(contestants, qkv, arguments.repeats, backward=True)
    if arguments.flex:
        forward = {"packed": packed(sequences), "flex": flex(sequences)}
        rows += measure(forward, qkv, arguments.repeats, backward=False)
    print_table(rows)
    padding = 1 - sequences.rows / (len(lengths) * sequences.longest)
    sizes = {"samples": arguments.samples, "tokens": sequences.rows, "padding": round(padding, 4)}
    record("packed_attention", sizes | {"threads": arguments.threads, "repeats": arguments.repeats}, rows)


def draw_lengths(samples: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Lengths int64 [samples] of samples of sets drawn at random."""
    known = np.asarray([source.length for source in catalogue_of_specs(load_preset("hetercsi").pretrain, samples=1)])
    return np.random.default_rng(0).choice(known, samples).astype(np.int64)


def packed(sequences: Sequences) -> Contestant:
    """A fused call for each distinct length."""
    return lambda qkv: grouped_attention(qkv, sequences)


def padded(sequences: Sequences) -> Contestant:
    """One call on a padded batch; spreading the tokens and taking them back is part of it."""
    lengths = sequences.offsets.diff()
    valid = torch.arange(sequences.longest) < lengths[:, None]

    def attend(qkv: Tensor) -> Tensor:
        spread = qkv.new_zeros(*valid.shape, *qkv.shape[1:]).masked_scatter(valid[..., None, None, None], qkv)
        query, key, value = spread.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        return mixed.transpose(1, 2)[valid]

    return attend


def masked(sequences: Sequences) -> Contestant:
    """One call on all tokens under a block-diagonal mask."""
    block = torch.repeat_interleave(sequences.offsets.diff().long())

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = qkv.permute(1, 2, 0, 3)[:, None].unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=block[:, None] == block)
        return mixed[0].transpose(0, 1)

    return attend


def flex(sequences: Sequences) -> Contestant:
    """FlexAttention, compiled, over blocks of the same mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    block = torch.repeat_interleave(sequences.offsets.diff().long())
    rows = sequences.rows
    mask = create_block_mask(lambda _b, _h, query, key: block[query] == block[key], None, None, rows, rows, "cpu")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = qkv.permute(1, 2, 0, 3)[:, None].unbind(0)
        return compiled(query, key, value, block_mask=mask)[0].transpose(0, 1)

    return attend


def measure(contestants: dict[str, Contestant], qkv: Tensor, repeats: int, *, backward: bool) -> list[dict[str, Any]]:
    """Rows with the least processor time of each, in turn, the first being the measure of the others."""
    inputs = qkv.clone().requires_grad_(backward)
    reference = next(iter(contestants.values()))(qkv)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for name, attend in contestants.items():
        with torch.no_grad():
            torch.testing.assert_close(attend(qkv), reference, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    for _ in range(repeats):
        for name, attend in contestants.items():
            started = time.process_time()
            with torch.set_grad_enabled(backward):
                mixed = attend(inputs)
            if backward:
                mixed.sum().backward()
            seconds[name].append(time.process_time() - started)
    least = {name: min(values) for name, values in seconds.items()}
    slowest = next(iter(least.values()))
    passes = "forward and backward" if backward else "forward"
    return [
        {"attention": name, "passes": passes, "cpu_ms": round(1e3 * value, 2), "speed": round(slowest / value, 2)}
        for name, value in least.items()
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows on the terminal."""
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
