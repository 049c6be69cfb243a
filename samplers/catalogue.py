"""What there is to train on: the sources of samples, their lengths and counts. Nothing here touches data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from channels.errors import UserError
from channels.spec import ChannelSpec


@dataclass(frozen=True, slots=True)
class Source:
    """Samples of one set and, for a model of several granularities, of one granularity.

    name: the set. length: tokens of a sample. count: samples a source yields in an epoch. variant: the granularity.
    pool: sources of one pool share its samples: in every epoch each sample of the pool belongs to exactly one of them.
    shard_samples: consecutive samples of the set (of the pool) that lie in one shard.
    """

    name: str
    length: int
    count: int
    variant: int = 0
    pool: str | None = None
    shard_samples: int = 128

    def __post_init__(self) -> None:
        """Refuse values that cannot be scheduled."""
        label = f"source {self.name} (variant {self.variant})"
        if self.count < 1:
            raise UserError("has no samples", where=label, mend="remove the set or make its samples")
        if self.length < 1:
            raise UserError(f"samples have length {self.length}", where=label, mend="a sample has at least one token")
        if self.shard_samples < 1:
            raise UserError(f"shard_samples is {self.shard_samples}", where=label, mend="use at least 1")
        if self.variant < 0:
            raise UserError(f"variant is {self.variant}", where=label, mend="use 0 or more")


class Catalogue:
    """Sources in a fixed order; their positions are the numbers that schedules speak of.

    Raises UserError for no sources, for two sources of one set and variant, and for a pool whose counts do not differ
    by at most one in the order that :func:`shared_sources` gives them.
    """

    def __init__(self, sources: tuple[Source, ...] | list[Source]) -> None:
        self.sources = tuple(sources)
        if not self.sources:
            raise UserError("the catalogue has no sources", mend="name at least one set")
        _check_distinct(self.sources)
        for pool, members in self.pools.items():
            _check_pool(pool, [self.sources[member] for member in members])

    def __len__(self) -> int:
        """Number of sources."""
        return len(self.sources)

    def __iter__(self) -> Iterator[Source]:
        """Sources in order."""
        return iter(self.sources)

    def __getitem__(self, number: int) -> Source:
        """Source by number."""
        return self.sources[number]

    def __eq__(self, other: object) -> bool:
        """Equal if all sources are, in the same order."""
        return isinstance(other, Catalogue) and self.sources == other.sources

    def __hash__(self) -> int:
        """Consistent with equality."""
        return hash(self.sources)

    @cached_property
    def pools(self) -> dict[str, tuple[int, ...]]:
        """Pool name to the numbers of its sources, in the order in which they share its samples."""
        members: dict[str, list[int]] = {}
        for number, source in enumerate(self.sources):
            if source.pool is not None:
                members.setdefault(source.pool, []).append(number)
        return {pool: tuple(numbers) for pool, numbers in members.items()}

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        """Names of the sets in order of first appearance."""
        return tuple(dict.fromkeys(source.name for source in self.sources))

    @cached_property
    def stored_sets(self) -> tuple[str, ...]:
        """The same, where sources that share the samples of one set are one."""
        return tuple(dict.fromkeys(source.pool or source.name for source in self.sources))

    @cached_property
    def total_samples(self) -> int:
        """Samples of one epoch."""
        return sum(source.count for source in self.sources)

    @cached_property
    def total_tokens(self) -> int:
        """Valid tokens of one epoch."""
        return sum(source.count * source.length for source in self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of all sources."""
        return digest(self.to_json())

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for json.dumps."""
        return [asdict(source) for source in self.sources]

    @classmethod
    def from_json(cls, content: list[dict[str, Any]]) -> "Catalogue":
        """Inverse of :meth:`to_json`."""
        return cls([Source(**source) for source in content])

    def describe_difference(self, other: "Catalogue") -> str:
        """What the other catalogue has that this one has not, in a few words; empty if they are equal."""
        own = {(source.name, source.variant): source for source in self}
        foreign = {(source.name, source.variant): source for source in other}
        changes = [f"set {_label(key)} is missing" for key in own if key not in foreign]
        changes += [f"set {_label(key)} is new" for key in foreign if key not in own]
        for key in own.keys() & foreign.keys():
            changes += _field_changes(own[key], foreign[key])
        if not changes and self.sources != other.sources:
            changes = ["the sets are in another order"]
        return _abridged(sorted(changes))


def shared_sources(
    pool: str, members: Sequence[tuple[str, int, int]], count: int, shard_samples: int = 128
) -> tuple[Source, ...]:
    """Sources as (name, variant, length) that share the ``count`` samples of one set.

    Of every V consecutive samples each of V sources gets one an epoch, by a keyed permutation. Where V does not divide
    the count, the first sources have one sample more, another one in each epoch (samplers.pools), so that counts stay
    the same.

    Raises:
        UserError: a source would get nothing.
    """
    share, rest = divmod(count, len(members)) if members else (0, 0)
    if share < 1:
        what = (
            f"{count} samples are too few for {len(members)} forms (granularities, data.crop), of which each takes one"
        )
        raise UserError(what, where=f"set {pool}", mend="take more samples (data.samples), or fewer forms")
    return tuple(
        Source(name, length, share + (place < rest), variant, pool=pool, shard_samples=shard_samples)
        for place, (name, variant, length) in enumerate(members)
    )


def digest(content: object) -> str:
    """SHA-256 of the canonical JSON of plain data."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_distinct(sources: tuple[Source, ...]) -> None:
    seen: set[tuple[str, int]] = set()
    for source in sources:
        key = (source.name, source.variant)
        if key in seen:
            raise UserError(f"set {_label(key)} occurs twice", where="catalogue", mend="give every set its own name")
        seen.add(key)


def _check_pool(pool: str, members: list[Source]) -> None:
    if len({member.shard_samples for member in members}) > 1:
        raise UserError("its sources disagree on shard_samples", where=f"pool {pool}")
    share, rest = divmod(sum(member.count for member in members), len(members))
    if any(member.count != share + (place < rest) for place, member in enumerate(members)):
        counts = ", ".join(str(member.count) for member in members)
        raise UserError(f"counts {counts} are not an even share", where=f"pool {pool}", mend="use shared_sources")


def _label(key: tuple[str, int]) -> str:
    name, variant = key
    return f"{name} variant {variant}" if variant else name


def _field_changes(own: Source, foreign: Source) -> list[str]:
    before, after = asdict(own), asdict(foreign)
    label = _label((own.name, own.variant))
    return [
        f"set {label}: {field} was {before[field]}, is {after[field]}"
        for field in before
        if before[field] != after[field]
    ]


def _abridged(changes: list[str], limit: int = 5) -> str:
    shown = "; ".join(changes[:limit])
    return f"{shown}; and {len(changes) - limit} more" if len(changes) > limit else shown


def catalogue_of_specs(specs: Iterable[ChannelSpec], samples: int, patch: int = 4) -> Catalogue:
    """Sets that need not exist on disk, ``samples`` each, tokens being cubes of edge ``patch`` in (T, K, A)."""
    return Catalogue([Source(spec.name, _tokens(spec, patch), samples) for spec in specs])


def _tokens(spec: ChannelSpec, patch: int) -> int:
    return int(np.prod([-(-edge // patch) for edge in spec.shape]))
