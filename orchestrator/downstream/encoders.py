"""Encoders by name: exports of trained models at one patch side, and the raw channel."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from channels.errors import UserError
from models.export import CONFIG, WEIGHTS, load_model, read_spec
from models.interface import ModelSpec, PretrainingModel
from models.registry import make_spec
from orchestrator.data.forms import token_lengths
from orchestrator.downstream.pool import Pool
from orchestrator.downstream.task import Feature


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder at one granularity. name: in tables. folder: of the export, None for the raw channel."""

    name: str
    folder: Path | None
    patch: int

    @property
    def key(self) -> str:
        """In names of files."""
        return f"{self.name}-p{self.patch}"

    def feature(self, wanted: Feature) -> Feature:
        """What stands for a feature: nothing is pooled of the raw channel, its patches follow each other instead."""
        return "flat" if self.folder is None and wanted in ("class", "mean") else wanted

    def spec(self) -> ModelSpec:
        """Of its model. Raises UserError where the export is damaged."""
        return make_spec("raw", {"patches": [self.patch]}) if self.folder is None else read_spec(self.folder)

    def load(self) -> tuple[ModelSpec, PretrainingModel]:
        """Specification and network, in evaluation mode. Raises UserError where the export is damaged."""
        if self.folder is None:
            spec = self.spec()
            return spec, spec.build(seed=0).eval()
        spec, model = load_model(self.folder)
        return spec, model.float().eval()

    def fingerprint(self) -> str:
        """Hex SHA-256 of its weights and configuration, and the patch side."""
        digest = hashlib.sha256(f"{self.patch}\n".encode())
        for name in (CONFIG, WEIGHTS) if self.folder is not None else ():
            assert self.folder is not None
            path = self.folder / name
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                mend = "name an exported model"
                raise UserError(f"cannot be read ({error.strerror})", where=str(path), mend=mend) from None
        return digest.hexdigest()


def encoders_at(name: str, folder: Path | None, patches: Sequence[int]) -> tuple[Encoder, ...]:
    """An encoder at each of the patch sides that it has. Models of one fixed granularity have theirs only.

    Raises:
        UserError: the model lacks one of the patch sides, or has none of them.
    """
    if folder is None:
        return tuple(Encoder(name, None, patch) for patch in patches)
    spec = read_spec(folder)
    having = [patch for patch in patches if patch in spec.variants]
    chooses = hasattr(spec, "patches")
    if not having or (chooses and len(having) < len(patches)):
        lacking = next(patch for patch in patches if patch not in spec.variants)
        listed = ", ".join(map(str, spec.variants))
        mend = f"it has {listed}: set patches, or train it with more"
        raise UserError(f"{spec.name} has no patches of side {lacking}", where=f"encoder {name} ({folder})", mend=mend)
    # A trained raw model has no encoder either.
    return tuple(Encoder(name, None if spec.name == "raw" else folder, patch) for patch in having)


def check_encoder(encoder: Encoder, pool: Pool, unfreeze: int, device: str) -> None:
    """Load an encoder once before any work.

    Raises:
        UserError: a damaged export, a model without an encoder or with too few layers to be trained, a scale that
            it cannot take, a device where it cannot compute.
    """
    spec, model = encoder.load()
    where = f"encoder {encoder.name}"
    if type(model).encode is PretrainingModel.encode:
        mend = "take a model with one: hetercsi, wifo, wimamba, lwm, or raw for the channel itself"
        raise UserError(f"{spec.name} has no encoder, so it gives no embeddings", where=where, mend=mend)
    layers = len(model.encoder_layers())
    # Nothing of the raw channel is trained.
    if encoder.folder is not None and layers < unfreeze:
        what = f"unfreeze {unfreeze}, but the encoder has {layers} layers"
        raise UserError(what, where=where, mend="lower it, or leave out the encoder")
    spec.check(device)
    for one in pool.sets:
        token_lengths(spec, one.name, one.spec.shape, (encoder.patch,))
