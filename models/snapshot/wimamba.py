"""WiMamba: a bidirectional Mamba over patches of single snapshots at several granularities (Raviv, Shlezinger 2026).

``published`` is the model of the public code, to the parameter. ``paper`` is the model of the text: no norms, no
projections and no networks around the two directions, one affine map for tokens of all granularities and for a learned
class token, a linear decoder, masks of ones.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from channels.errors import UserError
from models.interface import Shape
from models.scan.backends import Wanted, choose_backend
from models.snapshot.embedding import LinearHead, PatchEmbedding, PatchHead
from models.snapshot.mamba_layers import MambaBackbone, MambaSize, PaperLayer, PublishedLayer
from models.snapshot.model import SnapshotModel
from models.snapshot.spec import ClassToken, Embedding, SnapshotSpec, check_dropout, set_default


@dataclass(frozen=True, kw_only=True, slots=True)
class WiMambaSpec(SnapshotSpec):
    """WiMamba's options; those left None follow ``construction``.

    state: numbers each channel of the scan remembers. conv: taps of the short convolution. scan: backend of the
    selective scan, ``auto`` for the fastest one the device has.
    """

    construction: Literal["published", "paper"] = "published"
    size: Literal["published", "tiny"] = "published"
    state: int = 8
    conv: int = 4
    dropout: float = 0.1
    class_token: ClassToken | None = None
    embedding: Embedding | None = None
    scan: Wanted = "auto"

    def __post_init__(self) -> None:
        """Raises UserError for an option out of range."""
        published = self.construction == "published"
        set_default(self, "class_token", "constant" if published else "learnable")
        set_default(self, "embedding", "per_granularity" if published else "shared")
        set_default(self, "mask_values", self.construction)
        SnapshotSpec.__post_init__(self)
        check_dropout(self.dropout)
        for name, most in (("state", 256), ("conv", 16)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise UserError(f"{value!r} is not within 1..{most}", where=name, mend="published: state 8, conv 4")

    @property
    def name(self) -> str:
        """``wimamba``."""
        return "wimamba"

    def build(self, seed: int) -> SnapshotModel:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            embedding, head = self._ends()
            layer = PublishedLayer if self.construction == "published" else PaperLayer
            layers = [layer(self.mamba, self.dropout) for _ in range(self.depth)]
            return SnapshotModel(self, embedding, MambaBackbone(layers), head)

    @property
    def packs(self) -> bool:
        """With every backend of the scan but mamba-ssm's, which has no sequence boundaries."""
        return self.scan != "mamba_ssm"

    @property
    def keeps_float32(self) -> bool:
        """Decays, step biases and skips of the scan."""
        return True

    def check(self, device: str) -> None:
        """Raises UserError where the wanted backend of the selective scan cannot run."""
        # Some backend always can. To find out which, a GPU must be used, and a controller would hold memory there.
        if device == "cpu" or self.scan != "auto":
            choose_backend(device, self.scan, False)

    def notes(self, device: str, packed: bool) -> tuple[str, ...]:
        """The backend of the selective scan."""
        return (f"selective scan: {choose_backend(device, self.scan, packed).note}",)

    def forward_flops(self, shape: Shape, variant: int) -> float:
        """Operations of one snapshot: embedding, layers and head; the head leaves the class token out."""
        width, token = self.width, 2 * variant * variant
        published = self.construction == "published"
        layers = self.depth * ((10 * width * width if published else 0) + self.mamba.macs_per_token)
        length = self.length(shape, variant)
        decoded = token + (width if published else 0)
        return 2.0 * (length * (layers + token * width) + (length - 1) * width * decoded)

    @property
    def depth(self) -> int:
        """Layers."""
        return 12 if self.size == "published" else 4

    @property
    def width(self) -> int:
        """Features of a token."""
        return 128 if self.size == "published" else 64

    @property
    def mamba(self) -> MambaSize:
        """Dimensions of a layer's two directions."""
        return MambaSize(width=self.width, state=self.state, conv=self.conv, scan=self.scan)

    def _ends(self) -> tuple[PatchEmbedding, nn.Module]:
        """Embedding and head."""
        assert self.embedding is not None
        assert self.class_token is not None
        norm = nn.LayerNorm if self.construction == "published" else nn.Identity
        embedding = PatchEmbedding(self.patches, self.width, self.embedding, self.class_token, norm)
        head = PatchHead if self.construction == "published" else LinearHead
        return embedding, head(self.patches, self.width, self.embedding)
