"""Is a store still what was written?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from channels.files import is_file
from channels.manifest import SHARD_FOLDER, Shard, read_manifest


@dataclass(frozen=True, slots=True)
class Fault:
    """One damaged file. file: path below the store. what: missing, truncated, unreadable, altered or extra."""

    file: str
    what: str


def verify(path: Path | str) -> list[Fault]:
    """Every shard read and compared with its checksum, every file accounted for; empty if the store is whole.

    Raises UserError where the folder is no store or its manifest cannot be trusted.
    """
    store = Path(path)
    sets = read_manifest(store)
    shards = [shard for stored in sets.values() for split in stored.splits.values() for shard in split.shards]
    faults = [fault for shard in shards if (fault := find_fault(store, shard)) is not None]
    return faults + _extra(store, {shard.file for shard in shards})


def find_fault(store: Path, shard: Shard, *, checksum: bool = True) -> Fault | None:
    """What is wrong with one shard, or None; without ``checksum`` only its presence and size are looked at."""
    file = store / shard.file
    try:
        if not file.is_file():
            return Fault(shard.file, "missing")
        size = file.stat().st_size
        if size != shard.bytes:
            kind = "truncated" if size < shard.bytes else "too long"
            return Fault(shard.file, f"{kind}: {size} bytes instead of {shard.bytes}")
        if not checksum:
            return None
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return Fault(shard.file, f"unreadable: {error.strerror}")
    if digest != shard.sha256:
        return Fault(shard.file, "altered: its SHA-256 is not that of the manifest")
    return None


def _extra(store: Path, known: set[str]) -> list[Fault]:
    # What a killed writer left behind is hidden, does no harm and goes with the next writer.
    found = (file.relative_to(store) for file in (store / SHARD_FOLDER).rglob("*") if is_file(file))
    visible = (file for file in found if not any(part.startswith(".") for part in file.parts))
    return [
        Fault(str(file), "extra: the manifest does not name it") for file in sorted(visible) if str(file) not in known
    ]
