"""Figures of plans: where the boundaries lie, what they cost, and what other methods would cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from channels.files import write_atomically
from orchestrator.report.figure import new_figure, to_png
from orchestrator.report.padding_curves import padding_by_buckets
from samplers.catalogue import Catalogue
from samplers.partition import distinct_lengths
from samplers.plan import Bucket, Plan

METHOD_NAMES = {
    "equal": "equal size (HeterCSI)",
    "equal_tokens": "equal tokens (Lhotse)",
    "quantile": "quantile",
    "optimal": "optimal (exact)",
}
DASHED_COLOUR = "#1b7837"
METHOD_COLOURS = {"equal": "#b2182b", "equal_tokens": "#ef8a62", "quantile": "#67a9cf", "optimal": "#2166ac"}
PERCENT = "padding, % of computed tokens"
VALID, PADDED = "#4d7ea8", "#d9b08c"


def draw_plan(plan: Plan, catalogue: Catalogue, path: Path) -> None:
    """PNG of a plan: samples by length with boundaries and padding, sets a bucket, padding against bucket count."""
    figure, (lengths, sets, methods) = _figure(3, (15, 4.2))
    _draw_lengths(lengths, plan, catalogue)
    _draw_sets(sets, plan, catalogue)
    counts = list(range(1, _most_buckets(plan, catalogue) + 1))
    batch = min(bucket.batch_size for bucket in plan.buckets)
    _draw_curves(methods, counts, _feasible_curves(catalogue, counts, batch))
    if plan.method:
        variants = len({bucket.variant for bucket in plan.buckets})
        methods.plot(len(plan.buckets) / variants, 100 * plan.padding, "ko", ms=8, mfc="none", label="this plan")
    methods.set(ylabel=PERCENT, ylim=(-1, None))
    methods.legend(frameon=False, fontsize=9)
    name = f"{plan.strategy}, {plan.method}" if plan.method else plan.strategy
    figure.suptitle(f"Plan: {name}, expected padding {100 * plan.padding:.2f} %", x=0.01, ha="left")
    _save(figure, path)


def draw_padding_by_buckets(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    counts: Sequence[int],
    path: Path,
    published: Mapping[str, Mapping[int, float]] | None = None,
) -> None:
    """PNG with a panel a catalogue: padding ratio of every method against the number of buckets.

    panels: title -> method -> ratio for each of ``counts``; what is not a method of samplers.partition is drawn dashed.
    published: title -> {buckets: ratio} of points to mark.
    """
    figure, axes = _figure(len(panels), (4.2 * len(panels), 3.8), sharey=True)
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        _draw_curves(axis, counts, curves)
        points = (published or {}).get(title, {})
        if points:
            ratios = [100 * ratio for ratio in points.values()]
            axis.plot(list(points), ratios, "kx", ms=8, mew=2, label="published (Table III)", zorder=5)
        axis.set_title(title)
    axes[0].set(ylabel=PERCENT, ylim=(-1, None))
    axes[-1].legend(frameon=False, fontsize=9)
    _save(figure, path)


def _figure(columns: int, size: tuple[float, float], **subplots: Any) -> tuple[Any, Any]:
    figure, axes = new_figure(1, columns, size, squeeze=False, **subplots)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, to_png(figure, 110))


def _draw_lengths(axis: Any, plan: Plan, catalogue: Catalogue) -> None:
    """Bars of valid tokens and padding by length; a dashed line at the longest sample of each bucket."""
    lengths = sorted({source.length for source in catalogue})
    position = {length: number for number, length in enumerate(lengths)}
    valid, padding = np.zeros(len(lengths)), np.zeros(len(lengths))
    for bucket in plan.buckets:
        for span in bucket.spans:
            length = catalogue[span.source].length
            valid[position[length]] += span.count * length
            padding[position[length]] += 0 if plan.packed else span.count * (bucket.length - length)
    bars = np.arange(len(lengths))
    axis.bar(bars, valid / 1e6, color=VALID, label="tokens")
    axis.bar(bars, padding / 1e6, bottom=valid / 1e6, color=PADDED, label="padding up to the bucket's longest")
    if plan.method:
        for number, longest in enumerate(sorted({position[bucket.length] for bucket in plan.buckets})[:-1]):
            axis.axvline(longest + 0.5, color="black", ls="--", lw=1, label="" if number else "bucket boundary")
    _label_lengths(axis, lengths)
    axis.set(xlabel="length of a sample, tokens", ylabel="millions of tokens an epoch", title="Lengths and boundaries")
    axis.set_ylim(top=1.35 * float((valid + padding).max()) / 1e6)
    axis.legend(fontsize=9, framealpha=1, edgecolor="none", loc="upper left")


def _label_lengths(axis: Any, lengths: Sequence[int], most: int = 16) -> None:
    stride = -(-len(lengths) // most)
    axis.set_xticks(range(0, len(lengths), stride), [str(length) for length in lengths[::stride]], fontsize=8)


def _draw_sets(axis: Any, plan: Plan, catalogue: Catalogue) -> None:
    counts = [_sets_in(bucket, catalogue) for bucket in plan.buckets]
    axis.bar(range(len(counts)), counts, color=VALID)
    _label_lengths(axis, [bucket.length for bucket in plan.buckets])
    axis.set(xlabel="bucket, by its longest sample", ylabel="sets", title="Sets a bucket")
    axis.yaxis.get_major_locator().set_params(integer=True)


def _sets_in(bucket: Bucket, catalogue: Catalogue) -> int:
    return len({catalogue[span.source].name for span in bucket.spans})


def _draw_curves(axis: Any, counts: Sequence[int], curves: Mapping[str, Sequence[float]]) -> None:
    for method, ratios in curves.items():
        percent = [100 * ratio for ratio in ratios]
        name, colour = METHOD_NAMES.get(method, method), METHOD_COLOURS.get(method)
        style = {"color": colour} if colour else {"color": DASHED_COLOUR, "ls": "--"}
        axis.plot(counts, percent, marker="o", ms=4, label=name, **style)
    axis.set(xlabel="buckets", title="Padding by method")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _most_buckets(plan: Plan, catalogue: Catalogue) -> int:
    """Bucket counts worth drawing: up to the distinct lengths, at most 16, at least those of the plan."""
    variants = {source.variant for source in catalogue}
    distinct = max(distinct_lengths(catalogue, variant) for variant in variants)
    return max(min(distinct, 16), -(-len(plan.buckets) // len(variants)) if plan.method else 1)


def _feasible_curves(catalogue: Catalogue, counts: Sequence[int], batch: int) -> dict[str, list[float]]:
    """Padding of every method; buckets too small for the batch are judged with a batch that fits them all."""
    smallest = min(source.count for source in catalogue)
    return padding_by_buckets(catalogue, counts, max(min(batch, smallest, _equal_share(catalogue, counts[-1])), 1))


def _equal_share(catalogue: Catalogue, buckets: int) -> int:
    totals: dict[int, int] = {}
    for source in catalogue:
        totals[source.variant] = totals.get(source.variant, 0) + source.count
    return min(totals.values()) // buckets
