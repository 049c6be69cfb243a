"""A plan described as plain data, for JSON and for tables."""

from typing import Any

from samplers.catalogue import Catalogue
from samplers.load import rank_load
from samplers.measures import bucket_entropy
from samplers.padding import padding_ratio
from samplers.plan import Bucket, Plan, bucket_padded_tokens
from samplers.schedule import Schedule


def count_sets(sets: int, forms: int) -> str:
    """``40 sets``, with their cropped parts where there are any."""
    return f"{sets} sets" if forms == sets else f"{sets} sets in {forms} forms"


def describe_plan(catalogue: Catalogue, plan: Plan, schedule: Schedule, ranks: int = 1) -> dict[str, Any]:
    """Everything one wants to know before training, as plain data.

    sets: of the store. forms: those and their cropped parts.
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
        "sets": len(catalogue.stored_sets),
        "forms": len(catalogue.set_names),
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
