"""Embeddings of all samples of a pool by one encoder, computed once and kept in a file."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from torch import Tensor

from channels.errors import UserError
from channels.files import write_atomically
from models.interface import Embedding, ModelSpec, Shape, TokenBatch, collate
from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.pool import Pool, PooledSet
from orchestrator.downstream.task import Feature
from orchestrator.downstream.views import View, show

BATCH = 64
METHOD = 3
"""Counts up when embeddings or scores are computed in another way, so that kept ones are not taken for them."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """By ``<feature>/<set>``: float32 [n, width], or of patches [n, L, width]. class_token: whether there is one."""

    values: Mapping[str, NDArray[np.float32]]
    class_token: bool

    def of(self, feature: Feature, one: PooledSet) -> NDArray[np.float32]:
        """Of the samples of a set."""
        return self.values[f"{feature}/{one.name}"]

    def joined(self, feature: Feature, pool: Pool) -> NDArray[np.float32]:
        """Vectors [N, width] of all samples.

        Raises:
            UserError: sets whose samples have different numbers of tokens, one after the other (raw or ``flat``).
        """
        parts = [self.of(feature, one) for one in pool.sets]
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:
            what = f"flattened samples have {min(widths)} to {max(widths)} numbers"
            raise UserError(what, where="sets", mend="take sets of one scale, or leave out raw and feature flat")
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Batches:
    """Reads some samples of a set and has them cut into tokens. shape: of a training sample of the model."""

    pool: Pool
    one: PooledSet
    spec: ModelSpec
    patch: int
    view: View

    @property
    def shape(self) -> Shape:
        """Scale of what the model calls a sample: a stored one, or one of its slots."""
        slots, subcarriers, antennas = self.one.spec.shape
        return slots // self.per_stored, subcarriers, antennas

    @property
    def per_stored(self) -> int:
        """Samples of the model in a stored one."""
        return self.spec.samples_per_stored(self.one.spec.shape)

    def read(self, index: NDArray[np.int64]) -> tuple[TokenBatch, NDArray[np.complex64]]:
        """Tokens of what the encoder is shown, and whole channels on the same scale, [n, T, K, A] as the model has."""
        stored = self.pool.read(self.one, index)
        excess = self.one.gain_db[index] - self.one.gain_db.mean()
        shown, whole = (part.reshape(-1, *self.shape) for part in show(stored, self.view, excess))
        keys = np.arange(len(shown), dtype=np.int64)
        weight = np.ones(len(shown), np.float32)
        return collate([self.spec.tokenise(shown, self.patch)], keys, weight, self.patch), whole


def embed(encoder: Encoder, pool: Pool, view: View, features: Sequence[Feature], device: str) -> Embeddings:
    """Some features of every sample. Batches hold samples of one set, so of one length: nothing is padded."""
    spec, model = encoder.load()
    model = model.to(device)
    values: dict[str, NDArray[np.float32]] = {}
    has_class_token = False
    for one in pool.sets:
        batches = Batches(pool, one, spec, encoder.patch, view)
        parts: dict[str, list[NDArray[np.float32]]] = {feature: [] for feature in features}
        for index in _pieces(one.count, max(1, BATCH // batches.per_stored)):
            with torch.inference_mode():
                embedding = model.encode(batches.read(index)[0].to(device))
                has_class_token = embedding.class_token is not None
                for feature in features:
                    found = feature_of(embedding, feature, batches.per_stored)
                    parts[feature].append(found.cpu().numpy())
        values |= {f"{feature}/{one.name}": np.concatenate(found) for feature, found in parts.items()}
    return Embeddings(values, has_class_token)


def feature_of(embedding: Embedding, feature: Feature, per_stored: int) -> Tensor:
    """A feature of stored samples, float32 [n, width] or [n, L, width], of embeddings of samples of one length.

    Without a class token the mean over the patches takes its place. A stored sample of several slots, each a sample of
    the model, has the mean over its slots, or the patches of all.
    """
    patches = embedding.patches
    if feature == "patches":
        return patches.reshape(-1, per_stored * patches.shape[1], patches.shape[2])
    if feature == "flat":
        return patches.reshape(len(patches) // per_stored, -1)
    token = embedding.class_token
    if feature == "class" and token is not None:
        pooled = token
    else:
        pooled = (patches if token is None else torch.cat([token[:, None], patches], dim=1)).mean(dim=1)
    return pooled.reshape(-1, per_stored, pooled.shape[1]).mean(dim=1)


def embeddings_of(
    encoder: Encoder, pool: Pool, view: View, features: Iterable[Feature], device: str, folder: Path
) -> Embeddings:
    """The same from the file of an earlier call where weights, channels and all else are the same; else it is written.

    folder: of the files.
    """
    wanted = sorted(set(features))
    identity = {
        "method": METHOD,
        "weights": encoder.fingerprint(),
        "store": pool.store.fingerprint,
        "sets": [[one.name, [(split, index.tolist()) for split, index in one.splits]] for one in pool.sets],
        # The gain of labels other than the first named may be meant.
        "gain": hashlib.sha256(pool.gain_db.tobytes()).hexdigest() if view.keeps_gain else None,
        "patch": encoder.patch,
        "view": {"keeps_gain": view.keeps_gain, "given": None if view.given is None else view.given.model_dump()},
        "features": wanted,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder / f"{encoder.key}-{view.key}-{key[:16]}.safetensors"
    kept = _read(path, key)
    if kept is not None:
        return kept
    found = embed(encoder, pool, view, wanted, device)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"key": key, "class_token": str(found.class_token)}
    write_atomically(path, save(dict(found.values), metadata=metadata))
    return found


def _read(path: Path, key: str) -> Embeddings | None:
    """What a file holds; None where there is none, or one of something else."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata: Mapping[str, Any] = file.metadata() or {}
        if metadata.get("key") != key:
            return None
        return Embeddings(load_file(path), metadata.get("class_token") == "True")
    # A damaged file is computed once more.
    except (OSError, SafetensorError):
        return None


def _pieces(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
