"""One shard from a store to a node's disk: whole, with the right checksum, or not at all."""

import hashlib
import os
from pathlib import Path

from channels.errors import UserError
from channels.files import is_disk_full
from channels.manifest import Shard

CHUNK_BYTES = 4 * 2**20
ATTEMPTS = 2
"""Times a shard is copied before its corruption is taken to be the store's."""
INCOMING = ".incoming"


def copy_shard(shard: Shard, store: Path, root: Path) -> int:
    """Copy a shard from one folder to its place below another, replacing what is there; bytes moved.

    Raises UserError for a shard that is missing or twice corrupt and for a full disk.
    """
    source, target = store / shard.file, root / shard.file
    incoming = target.with_name(f".{target.name}{INCOMING}")
    moved = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        for _ in range(ATTEMPTS):
            digest = copy_hashed(source, incoming)
            moved += incoming.stat().st_size
            if digest == shard.sha256:
                incoming.replace(target)
                return moved
    except OSError as error:
        raise _explained(error, source, root) from error
    finally:
        incoming.unlink(missing_ok=True)
    raise UserError(
        f"the shard is corrupt: {ATTEMPTS} copies had the SHA-256 {digest}, the manifest says {shard.sha256}",
        where=str(source),
        mend="run 'wavetrain channels verify' on the store, then make or import its set again",
    )


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file and fsync it; hex SHA-256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def is_intact(shard: Shard, root: Path) -> bool:
    """Whether the copy below ``root`` has the shard's checksum."""
    with (root / shard.file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == shard.sha256


def _explained(error: OSError, source: Path, root: Path) -> OSError | UserError:
    """What a user can mend of an error while copying; anything else as it is."""
    if isinstance(error, FileNotFoundError) and not source.exists():
        return UserError("the shard is missing in the store", where=str(source), mend="make or import its set again")
    if is_disk_full(error):
        mend = "lower data.cache_gb to what the disk holds, or give storage.cache another folder"
        return UserError("the disk of the shard cache is full", where=str(root), mend=mend)
    return error
