"""What a source holds: sets, where each of their parameters comes from, and what is not imported."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.shards import Samples
from channels.spec import ChannelSpec

ASSUMED = "assumed"
"""The origin of a parameter that nothing says, so that a placeholder stands for it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value of ChannelSpec. source: what says so, in words: ``config.mat``, ``preset hetercsi D3``, ``shape``."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class SourceSplit:
    """The samples of one split: how many, and their chunks from the first on; read anew by every call."""

    count: int
    chunks: Callable[[], Iterator[Samples]]


@dataclass(frozen=True, slots=True)
class FoundSet:
    """One set of a source.

    name: it will have in the store. published: its role and folder as published, ``train/D1``, else its path below the
    source. layout: format and shape in words. origin: what the manifest keeps. notes: what a reader should know.
    alternatives: names to take where the store holds another set of this name.
    """

    spec: ChannelSpec
    role: str
    reader: str
    published: str
    layout: str
    splits: Mapping[str, SourceSplit]
    parameters: Mapping[str, Parameter]
    origin: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the set in a store."""
        return self.spec.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Scale of a sample: (T, K, A)."""
        return self.spec.shape

    @property
    def counts(self) -> dict[str, int]:
        """Samples a split."""
        return {split: part.count for split, part in self.splits.items()}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that is not imported: a path, or a path and a variable in it, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a source."""

    source: Path
    sets: tuple[FoundSet, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one reader found. claimed: files that it understood, whether their content is imported or not."""

    sets: tuple[FoundSet, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    claimed: frozenset[Path] = frozenset()
