"""Plans: which samples train together, and how many at a time. A pure function of the catalogue and a few choices."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from channels.errors import UserError
from samplers.batch_size import BatchSize, Cost
from samplers.catalogue import Catalogue, digest
from samplers.choices import METHODS, PACKS, STRATEGIES, check_choice
from samplers.padding import expected_padded_tokens, padding_ratio
from samplers.partition import NONE, TOKENS, Span, cut, distinct_lengths, length_counts
from samplers.segmentation import Constraints

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Bucket:
    """Samples that train together.

    length: longest sample in tokens. variant: the granularity of all its samples. spans: elements of sources.
    batch_size: samples of one slice, over all ranks.
    """

    length: int
    variant: int
    spans: tuple[Span, ...]
    batch_size: int

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(span.count for span in self.spans)


@dataclass(frozen=True)
class Plan:
    """Buckets of one strategy. ``method`` is None where the strategy alone decides the buckets.

    ``padding`` is the expected share of padding of an epoch whose slices are each padded to their longest sample; none
    where samples are packed.
    """

    strategy: str
    method: str | None
    buckets: tuple[Bucket, ...]
    padding: float

    @property
    def packed(self) -> bool:
        """Whether the samples of a slice follow each other without padding."""
        return self.strategy == "packed"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of strategy and buckets: equal fingerprints give equal schedules."""
        content = self.to_json()
        return digest({"strategy": content["strategy"], "buckets": content["buckets"]})

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        buckets = [_bucket_to_json(bucket) for bucket in self.buckets]
        return {
            "schema": SCHEMA,
            "strategy": self.strategy,
            "method": self.method,
            "buckets": buckets,
            "padding": self.padding,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Plan":
        """Inverse of :meth:`to_json`. Raises UserError for data of another shape or schema."""
        if content.get("schema") != SCHEMA:
            raise UserError(f"schema {content.get('schema')!r}, expected {SCHEMA}", where="plan", mend="plan again")
        try:
            buckets = tuple(_bucket_from_json(bucket) for bucket in content["buckets"])
            return cls(content["strategy"], content["method"], buckets, content["padding"])
        except (KeyError, TypeError) as error:
            raise UserError(f"field {error} is missing or unknown", where="plan", mend="plan again") from error

    def describe_difference(self, other: "Plan") -> str:
        """What differs in the other plan, in a few words; empty if it makes the same schedule."""
        if self.strategy != other.strategy:
            return f"strategy was {self.strategy}, is {other.strategy}"
        if len(self.buckets) != len(other.buckets):
            return f"there were {len(self.buckets)} buckets, now {len(other.buckets)}"
        for number, (before, after) in enumerate(zip(self.buckets, other.buckets, strict=True)):
            for field in ("length", "variant", "batch_size", "spans"):
                old, new = getattr(before, field), getattr(after, field)
                if old != new:
                    detail = "holds other samples" if field == "spans" else f"{field} was {old}, is {new}"
                    return f"bucket {number}: {detail}"
        return ""


def make_plan(
    catalogue: Catalogue,
    *,
    strategy: str = "bucket",
    method: str = "equal",
    pack: str = "bucket",
    buckets: int = 4,
    batch: int | None = None,
    batch_tokens: int | None = None,
    batch_flops: float | None = None,
    partitions: int = 1,
    cost: Cost = TOKENS,
    flops: Cost = TOKENS,
    constraints: Constraints = NONE,
) -> Plan:
    """Plan the batches of a catalogue.

    Strategies: ``bucket`` cuts each variant into at most ``buckets`` buckets by ``method`` (variants never share a
    bucket, so V variants have up to V x ``buckets``); ``global`` has one bucket a variant; ``packed`` has the buckets
    of the one or the other, as ``pack`` says, and pads nothing; ``alternating``, ``alternating_sets`` and
    ``sequential`` have one bucket a source, and differ in the order of the schedule.
    Batches: ``batch`` samples a slice over all ranks, or as many as fit ``batch_tokens`` padded tokens, or
    ``batch_flops`` by the table ``flops``, with all padded to the bucket's longest (packed: as many as fit on average);
    always a multiple of ``partitions``. A bucket with fewer samples than a slice is refused, except that a budget is
    lowered to the samples there are. ``cost`` is what method ``optimal`` minimises.
    Raises UserError for every choice that cannot be met.
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("pack", pack, PACKS)
    check_choice("method", method, METHODS)
    packed = strategy == "packed"
    like = pack if packed else strategy
    batch_size = _batch_size(batch, batch_tokens, batch_flops, flops, partitions, packed)
    cuts = _cut_all(catalogue, like, method, buckets, batch_size, cost, constraints)
    sized = []
    for number, (variant, spans) in enumerate(cuts):
        lengths, counts = length_counts(catalogue, spans)
        size = batch_size.of_bucket(lengths, counts, _label(catalogue, number, spans))
        sized.append(Bucket(int(lengths[-1]), variant, spans, size))
    used_method = method if like == "bucket" else None
    return Plan(strategy, used_method, tuple(sized), 0.0 if packed else expected_padding(catalogue, sized))


def expected_padding(catalogue: Catalogue, buckets: Sequence[Bucket]) -> float:
    """Expected padding ratio of an epoch: each slice filled at random from its bucket and padded to its longest."""
    padded = sum(bucket_padded_tokens(catalogue, bucket) for bucket in buckets)
    return padding_ratio(catalogue.total_tokens, padded)


def bucket_padded_tokens(catalogue: Catalogue, bucket: Bucket) -> float:
    """Expected tokens an epoch computes for a bucket, padding included, fillers not."""
    return expected_padded_tokens(*length_counts(catalogue, bucket.spans), bucket.batch_size)


def _batch_size(
    batch: int | None,
    batch_tokens: int | None,
    batch_flops: float | None,
    flops: Cost,
    partitions: int,
    packed: bool,
) -> BatchSize:
    if sum(size is not None for size in (batch, batch_tokens, batch_flops)) != 1:
        raise UserError("give one of batch, batch_tokens and batch_flops", where="batch")
    if batch is not None:
        return BatchSize(partitions, fixed=batch)
    if batch_tokens is not None:
        return BatchSize(partitions, budget=batch_tokens, packed=packed, field="batch_tokens")
    return BatchSize(partitions, budget=batch_flops or 0.0, cost=flops, packed=packed, field="batch_flops")


def _cut_all(
    catalogue: Catalogue,
    strategy: str,
    method: str,
    buckets: int,
    batch_size: BatchSize,
    cost: Cost,
    constraints: Constraints,
) -> list[tuple[int, tuple[Span, ...]]]:
    """Variant and spans of every bucket, variants in ascending order."""
    if strategy not in ("bucket", "global"):
        return [(source.variant, (Span(number, 0, source.count),)) for number, source in enumerate(catalogue)]
    variants = sorted({source.variant for source in catalogue})
    if strategy == "global":
        method, buckets = "equal", 1
    _check_bucket_count(catalogue, variants, method, buckets)
    return [
        (variant, spans)
        for variant in variants
        for spans in cut(catalogue, variant, method, buckets, batch_size, cost, constraints)
    ]


def _check_bucket_count(catalogue: Catalogue, variants: Sequence[int], method: str, buckets: int) -> None:
    if buckets < 1:
        raise UserError(f"buckets is {buckets}", where="buckets", mend="use at least 1")
    most = max(distinct_lengths(catalogue, variant) for variant in variants)
    if method != "equal" and buckets > most:
        raise UserError(
            f"{buckets} buckets for {most} distinct lengths",
            where="buckets",
            mend=f"use at most {most}, or method equal, which cuts within a length",
        )


def _label(catalogue: Catalogue, number: int, spans: Sequence[Span]) -> str:
    longest = max(catalogue[span.source].length for span in spans)
    names = ", ".join(dict.fromkeys(catalogue[span.source].name for span in spans[:4]))
    return f"bucket {number} (length up to {longest}; {names})"


def _bucket_to_json(bucket: Bucket) -> dict[str, Any]:
    """Plain data of a bucket; checkpoints call its spans ``pieces``."""
    content = asdict(bucket)
    spans = content.pop("spans")
    return {**content, "pieces": spans}


def _bucket_from_json(content: dict[str, Any]) -> Bucket:
    content = dict(content)
    spans = tuple(Span(**span) for span in content.pop("pieces"))
    return Bucket(spans=spans, **content)
