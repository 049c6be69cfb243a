"""One shard: a safetensors file of consecutive samples, written once, memory-mapped ever after."""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from channels.files import parse_json
from channels.manifest import Shard

CHANNEL = "channel"
LABEL = "label/"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Consecutive samples. channel: complex64 [n, T, K, A] at physical scale. labels: arrays with first axis n."""

    channel: NDArray[np.complex64]
    labels: Mapping[str, NDArray[Any]]


def is_storable(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this type can be stored as labels."""
    return dtype.newbyteorder("<").str in _DTYPES.values()


def write_shard(path: Path, samples: Samples, file: str) -> Shard:
    """Write and fsync one shard; ``file`` is the name it will have below the store."""
    from safetensors.numpy import save

    parts = np.ascontiguousarray(samples.channel, np.complex64).view(np.float32)
    tensors = {CHANNEL: parts.reshape(*samples.channel.shape, 2)}
    tensors |= {LABEL + name: np.ascontiguousarray(label) for name, label in samples.labels.items()}
    content = save(tensors)
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return Shard(file, len(samples.channel), len(content), hashlib.sha256(content).hexdigest())


def map_shard(path: Path, shard: Shard) -> dict[str, NDArray[Any]]:
    """The tensors of a shard as read-only memory maps: ``channel`` float32 [n, T, K, A, 2] and ``label/<name>``.

    Raises UserError naming the file where it is missing, of another size than the manifest says or unreadable.
    """
    mend = "run 'wavetrain channels verify' on the store, then make or import its set again"
    try:
        size = path.stat().st_size
        content = np.memmap(path, np.uint8, "r") if size == shard.bytes else None
    except FileNotFoundError:
        raise UserError("the shard is missing", where=str(path), mend=mend) from None
    except OSError as error:
        raise UserError(f"the shard cannot be read ({error.strerror})", where=str(path), mend=mend) from error
    if content is None:
        raise UserError(f"the shard has {size} bytes, its manifest says {shard.bytes}", where=str(path), mend=mend)
    try:
        tensors = _tensors(content)
        counts = {name: len(tensor) for name, tensor in tensors.items()}
        if counts.get(CHANNEL) != shard.count or set(counts.values()) != {shard.count}:
            raise ValueError(f"tensors of {counts} samples instead of {shard.count}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the shard is corrupt ({error})", where=str(path), mend=mend) from error
    return tensors


def _tensors(content: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    data_start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = parse_json(content[8:data_start].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        start, end = entry["data_offsets"]
        if end - start != math.prod(entry["shape"]) * dtype.itemsize:
            raise ValueError(f"tensor {name!r} does not fill its bytes")
        tensors[name] = content[data_start + start : data_start + end].view(dtype).reshape(entry["shape"])
    return tensors
