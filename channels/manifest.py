"""The manifest of a store: which sets it holds, in which shards, with which checksums."""

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from channels.errors import UserError, reason_of
from channels.files import is_file, is_there, parse_json
from channels.spec import ChannelSpec

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
SHARD_FOLDER = "shards"
ROLES = ("pretrain", "zeroshot")
SPLITS = ("train", "val", "test")
_REMAKE = "make or import the store again"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of consecutive samples. file: path below the store. sha256: of the whole file."""

    file: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """The samples of one split; every shard but the last holds ``shard_samples`` of them."""

    count: int
    shards: tuple[Shard, ...]
    shard_samples: int


@dataclass(frozen=True, slots=True)
class StoredSet:
    """One set of a store. mean_power: mean |H|^2 over all its samples. origin: how or from what it was made."""

    spec: ChannelSpec
    role: str
    splits: Mapping[str, StoredSplit]
    mean_power: float
    origin: Mapping[str, Any]


def shard_file(set_name: str, split: str, index: int) -> str:
    """Path of a shard below the store."""
    return f"{SHARD_FOLDER}/{set_name}/{split}-{index:05d}.safetensors"


def fingerprint(sets: Mapping[str, StoredSet]) -> str:
    """SHA-256 over specs, counts and content checksums of all sets, in their order."""
    return hashlib.sha256(_canonical([_set_to_json(stored) for stored in sets.values()])).hexdigest()


def write_manifest(sets: Mapping[str, StoredSet]) -> bytes:
    """The text of ``manifest.json``."""
    rows = [_set_to_json(stored) for stored in sets.values()]
    document = {"schema": SCHEMA, "fingerprint": fingerprint(sets), "sets": rows}
    return json.dumps(document, indent=1).encode() + b"\n"


def read_manifest(store: Path) -> dict[str, StoredSet]:
    """The sets of a store, in order.

    Raises UserError where the folder or the manifest is missing, of another schema, malformed or altered.
    """
    file = store / MANIFEST_FILE
    if not is_file(file):
        what = "no such store" if not is_there(store) else f"this is no store: it has no {MANIFEST_FILE}"
        raise UserError(
            what, where=str(store), mend="make one with 'wavetrain channels make --preset demo --store DIR'"
        )
    try:
        document = parse_json(file.read_bytes())
        schema = document["schema"]
    except OSError as error:
        mend = "ask its owner for permission, or check the disk"
        raise UserError(f"the manifest cannot be read ({error.strerror})", where=str(file), mend=mend) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a readable manifest ({reason_of(error)})", where=str(file), mend=_REMAKE) from error
    if schema != SCHEMA:
        what = f"schema {reprlib.repr(schema)}, but this version reads schema {SCHEMA}"
        raise UserError(what, where=str(file), mend=_REMAKE)
    try:
        sets = {stored.spec.name: stored for stored in (_set_from_json(row, str(file)) for row in document["sets"])}
        intact = document["fingerprint"] == fingerprint(sets)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"malformed manifest ({reason_of(error)})", where=str(file), mend=_REMAKE) from error
    if not intact:
        raise UserError("the manifest was altered: its fingerprint does not match", where=str(file), mend=_REMAKE)
    return sets


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _set_to_json(stored: StoredSet) -> dict[str, Any]:
    return {
        "spec": stored.spec.to_mapping(),
        "role": stored.role,
        "mean_power": stored.mean_power,
        "origin": dict(stored.origin),
        "splits": {name: asdict(split) for name, split in stored.splits.items()},
    }


def _set_from_json(row: Mapping[str, Any], where: str) -> StoredSet:
    spec = ChannelSpec.from_mapping(row["spec"], where, mend=_REMAKE)
    sample_bytes = 8 * math.prod(spec.shape)
    if row["role"] not in ROLES:
        raise ValueError(f"role {row['role']!r} of set {spec.name}")
    return StoredSet(
        spec=spec,
        role=row["role"],
        splits={name: _split_from_json(spec.name, name, split, sample_bytes) for name, split in row["splits"].items()},
        mean_power=float(row["mean_power"]),
        origin=dict(row["origin"]),
    )


def _split_from_json(set_name: str, split: str, row: Mapping[str, Any], sample_bytes: int) -> StoredSplit:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of set {set_name}")
    shards = tuple(Shard(**shard) for shard in row["shards"])
    count, per_shard = row["count"], row["shard_samples"]
    numbers = [count, per_shard, *(number for shard in shards for number in (shard.count, shard.bytes))]
    if not all(type(number) is int and 0 < number < 2**63 for number in numbers):
        raise ValueError(f"{set_name}/{split} has a size that is no number above 0")
    for index, shard in enumerate(shards):
        # Also keeps a hostile manifest from pointing outside the store.
        if shard.file != shard_file(set_name, split, index):
            raise ValueError(f"shard {index} of {set_name}/{split} is called {shard.file!r}")
        if not isinstance(shard.sha256, str) or shard.bytes < shard.count * sample_bytes:
            raise ValueError(f"shard {index} of {set_name}/{split} cannot hold its samples")
        if shard.count != min(per_shard, count - index * per_shard):
            raise ValueError(f"shard {index} of {set_name}/{split} holds {shard.count} samples")
    if len(shards) != -(-count // per_shard):
        raise ValueError(f"the shards of {set_name}/{split} do not hold {count} samples")
    return StoredSplit(count=count, shards=shards, shard_samples=per_shard)
