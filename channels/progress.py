"""Writing whole sets into a store, with a report of how far it is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.writer import StoreWriter

Progress = Callable[[str, int, int], None]
"""Called with the set, its samples so far and its samples in all; a set that was there already reports itself whole."""


def add_reporting(
    writer: StoreWriter,
    spec: ChannelSpec,
    role: str,
    counts: Mapping[str, int],
    splits: Mapping[str, Iterable[Samples]],
    origin: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Add a set to a store and report after each chunk. Raises UserError as ``StoreWriter.add_set`` does."""
    total = sum(counts.values())
    done = 0

    def counted(chunks: Iterable[Samples]) -> Iterable[Samples]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk.channel)
            progress(spec.name, done, total)

    watched = {split: counted(chunks) for split, chunks in splits.items()}
    if not writer.add_set(spec, role, counts, watched, origin):
        progress(spec.name, total, total)
