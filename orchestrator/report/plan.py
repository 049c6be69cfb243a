"""A plan told: as plain data for JSON, and as tables for a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from channels.spec import ChannelSpec
from samplers.catalogue import Catalogue, Source
from samplers.choices import METHODS
from samplers.load import rank_load
from samplers.measures import bucket_entropy
from samplers.padding import padding_ratio
from samplers.partition import distinct_lengths
from samplers.plan import Bucket, Plan, bucket_padded_tokens, make_plan
from samplers.schedule import Schedule

SHOWN_SETS = 8


def catalogue_of_specs(specs: Iterable[ChannelSpec], samples: int, patch: int = 4) -> Catalogue:
    """Sets that need not exist on disk, ``samples`` each, tokens being cubes of edge ``patch`` in (T, K, A)."""
    return Catalogue([Source(spec.name, _blocks(spec.shape, patch), samples) for spec in specs])


def describe_plan(catalogue: Catalogue, plan: Plan, schedule: Schedule, ranks: int = 1) -> dict[str, Any]:
    """Everything one wants to know before training, as plain data.

    padding: expected share of padding when each slice is padded to its longest sample. steps: optimizer steps of the
    first epoch. fillers: share of weight-0 samples. tokens_per_step: valid tokens of a mean step over all ranks.
    rank_tokens: computed by one of ``ranks`` ranks in a step, on average and at most.
    """
    steps = schedule.total_steps / schedule.epochs
    load = rank_load(schedule, ranks)
    return {
        "strategy": plan.strategy,
        "method": plan.method,
        "padding": round(plan.padding, 4),
        "sets": len(catalogue.set_names),
        "samples": catalogue.total_samples,
        "tokens": catalogue.total_tokens,
        "epochs": schedule.epochs,
        "steps": schedule.steps(0),
        "total_steps": schedule.total_steps,
        "tokens_per_step": round(catalogue.total_tokens / steps),
        "ranks": ranks,
        "rank_tokens": {"mean": round(load.mean), "largest": load.largest},
        "fillers": round(1 - catalogue.total_samples / schedule.scheduled_samples, 6),
        "partitions": schedule.partitions,
        "slices": schedule.slices,
        "mix": schedule.mix,
        "tails": schedule.tails,
        "shuffle": schedule.shuffle,
        "seed": schedule.seed,
        "fingerprint": plan.fingerprint,
        "catalogue_fingerprint": catalogue.fingerprint,
        "buckets": [
            _describe_bucket(catalogue, bucket, int(slices), plan.packed)
            for bucket, slices in zip(plan.buckets, schedule.slices_of_buckets(), strict=True)
        ],
    }


def plan_table(description: dict[str, Any]) -> Group:
    """The description of :func:`describe_plan` for a terminal."""
    several = len({bucket["variant"] for bucket in description["buckets"]}) > 1
    table = Table(title=_title(description), title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("bucket", justify="right")
    for name in (["variant"] if several else []) + ["tokens", "samples", "batch", "slices", "padding", "entropy"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sets", overflow="fold")
    for number, bucket in enumerate(description["buckets"]):
        table.add_row(str(number), *([str(bucket["variant"])] if several else []), *_cells(bucket))
    return Group(table, Text(_summary(description)))


def padding_by_buckets(
    catalogue: Catalogue,
    bucket_counts: Sequence[int],
    batch: int,
) -> dict[str, list[float]]:
    """Expected padding of every method for several numbers of buckets.

    Methods that keep equal lengths together have no more buckets than there are lengths: from there on they stay level.
    """
    most = max(distinct_lengths(catalogue, variant) for variant in {source.variant for source in catalogue})
    return {
        method: [
            make_plan(
                catalogue,
                method=method,
                buckets=count if method == "equal" else min(count, most),
                batch=batch,
            ).padding
            for count in bucket_counts
        ]
        for method in METHODS
    }


def _blocks(shape: Sequence[int], patch: int) -> int:
    return int(np.prod([-(-edge // patch) for edge in shape]))


def _describe_bucket(catalogue: Catalogue, bucket: Bucket, slices: int, packed: bool) -> dict[str, Any]:
    sources = [catalogue[span.source] for span in bucket.spans]
    valid = sum(span.count * source.length for span, source in zip(bucket.spans, sources, strict=True))
    computed = valid if packed else bucket_padded_tokens(catalogue, bucket)
    entropy = bucket_entropy(catalogue, bucket)
    return {
        "variant": bucket.variant,
        "shortest": min(source.length for source in sources),
        "longest": bucket.length,
        "lengths": _samples_by_length(catalogue, bucket),
        "samples": bucket.samples,
        "batch": bucket.batch_size,
        "slices": slices,
        "padding": round(padding_ratio(valid, computed), 4),
        "entropy_bits": round(entropy.bits, 4),
        "entropy_normalised": round(entropy.normalised, 4),
        "sets": list(dict.fromkeys(source.name for source in sources)),
    }


def _samples_by_length(catalogue: Catalogue, bucket: Bucket) -> list[tuple[int, int]]:
    """(tokens of a sample, samples) in ascending order."""
    counts: dict[int, int] = {}
    for span in bucket.spans:
        length = catalogue[span.source].length
        counts[length] = counts.get(length, 0) + span.count
    return sorted(counts.items())


def _cells(bucket: dict[str, Any]) -> list[str]:
    shortest, longest, names = bucket["shortest"], bucket["longest"], bucket["sets"]
    further = f" and {len(names) - SHOWN_SETS} more" if len(names) > SHOWN_SETS else ""
    return [
        f"{longest}" if shortest == longest else f"{shortest}-{longest}",
        f"{bucket['samples']:,}",
        f"{bucket['batch']:,}",
        f"{bucket['slices']:,}",
        f"{100 * bucket['padding']:.2f} %",
        f"{bucket['entropy_bits']:.2f} bit",
        f"{len(names)}: {' '.join(names[:SHOWN_SETS])}{further}",
    ]


def _title(description: dict[str, Any]) -> str:
    method = f", method {description['method']}" if description["method"] else ""
    return f"strategy {description['strategy']}{method}: padding {100 * description['padding']:.2f} %"


def _load(description: dict[str, Any]) -> str:
    ranks, tokens = description["ranks"], description["rank_tokens"]
    who = "one rank" if ranks == 1 else f"each of {ranks} ranks"
    return f"{who} computes {tokens['mean']:,} tokens a step on average, at most {tokens['largest']:,}"


def _summary(description: dict[str, Any]) -> str:
    return (
        f"{description['sets']} sets, {description['samples']:,} samples, {description['tokens']:,} tokens an epoch\n"
        f"{description['steps']:,} steps an epoch, {description['total_steps']:,} in {description['epochs']} epochs, "
        f"{description['tokens_per_step']:,} tokens a step, {100 * description['fillers']:.2f} % fillers\n"
        f"{_load(description)}\n"
        f"{description['partitions']} partitions, plan {description['fingerprint'][:16]}"
    )
