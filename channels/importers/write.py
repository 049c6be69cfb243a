"""Found sets into a store, one after another; a set that the store holds already is left as it is."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.files import is_file
from channels.importers.found import SourceSplit, Survey
from channels.importers.options import ImportOptions
from channels.importers.survey import IDENTITY, name_sets, survey
from channels.manifest import MANIFEST_FILE, read_manifest
from channels.progress import Progress, add_reporting
from channels.shards import Samples
from channels.signal import UNUSABLE, is_usable, sample_power
from channels.writer import open_writer


def import_source(source: Path, store: Path, options: ImportOptions, progress: Progress) -> Survey:
    """Survey a source and import all that it holds. Raises UserError as ``survey`` and ``import_sets`` do."""
    found = named_for(survey(source, options), store, options)
    import_sets(found, store, options, progress)
    return found


def named_for(found: Survey, store: Path, options: ImportOptions) -> Survey:
    """A survey whose sets have the names that they will have in a store, which need not exist yet."""
    held = read_manifest(store) if is_file(store / MANIFEST_FILE) else {}
    identities = {name: tuple(str(stored.origin.get(key)) for key in IDENTITY) for name, stored in held.items()}
    return name_sets(found, identities, options.name)


def import_sets(found: Survey, store: Path, options: ImportOptions, progress: Progress) -> None:
    """Import all sets of a survey; samples are read here for the first time.

    Raises UserError for a store that cannot be written or holds another set of a name, before anything is written, and
    for a file that cannot be read and a sample that is zero or not finite; sets before that one are in the store then.
    """
    with open_writer(store) as writer:
        if not options.skip_zero:
            for one in found.sets:
                writer.holds(one.spec, one.role, one.counts, one.origin)
        for one in found.sets:
            splits = (
                {split: _without_zero(part) for split, part in one.splits.items()} if options.skip_zero else one.splits
            )
            counts = {split: part.count for split, part in splits.items()}
            if not any(counts.values()):
                raise UserError(
                    "every sample is zero, too weak or not finite", where=one.published, mend="is this the right array?"
                )
            lost = {split: one.counts[split] - count for split, count in counts.items() if one.counts[split] - count}
            chunks = {split: _checked(part.chunks(), one.name, split) for split, part in splits.items()}
            origin = {**one.origin, "skipped_zero": lost} if lost else one.origin
            add_reporting(writer, one.spec, one.role, counts, chunks, origin, progress)


def _checked(chunks: Iterable[Samples], name: str, split: str) -> Iterator[Samples]:
    """The chunks. Raises UserError at the first sample that no model can be scored on."""
    first = 0
    for chunk in chunks:
        bad = np.flatnonzero(~_is_sound(chunk))
        if len(bad):
            power = sample_power(chunk.channel)[bad[0]]
            what = f"sample {first + int(bad[0])} has mean power {power}: {UNUSABLE}"
            raise UserError(what, where=f"{name}/{split}", mend="--skip-zero leaves such samples out and counts them")
        first += len(chunk.channel)
        yield chunk


def _without_zero(part: SourceSplit) -> SourceSplit:
    """The split without samples that are zero, too weak or not finite, which are counted by reading it once."""
    count = sum(int(np.count_nonzero(_is_sound(chunk))) for chunk in part.chunks())

    def chunks() -> Iterator[Samples]:
        for chunk in part.chunks():
            sound = _is_sound(chunk)
            if sound.any():
                yield Samples(chunk.channel[sound], {name: label[sound] for name, label in chunk.labels.items()})

    return SourceSplit(count, chunks)


def _is_sound(chunk: Samples) -> NDArray[np.bool_]:
    return is_usable(sample_power(chunk.channel))
