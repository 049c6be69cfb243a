"""HeterCSI's options and network."""

from dataclasses import dataclass
from typing import Literal

import torch

from models.autoencoder.model import MaskedAutoencoder
from models.autoencoder.sizes import Size
from models.autoencoder.spec import AutoencoderSpec
from models.hetercsi.sizes import network_size


@dataclass(frozen=True, kw_only=True, slots=True)
class HeterCsiSpec(AutoencoderSpec):
    """HeterCSI's options beside the masked shares.

    position: of tokens, ``flat`` as published; see ``models.layers.positions``.
    """

    size: Literal["published", "base", "tiny"] = "published"
    position: Literal["flat", "grid", "rotary"] = "flat"

    @property
    def name(self) -> str:
        """``hetercsi``."""
        return "hetercsi"

    @property
    def dimensions(self) -> Size:
        """Dimensions of the network."""
        return network_size(self.size)

    @property
    def keeps_float32(self) -> bool:
        """Whether there are frequencies of rotary positions."""
        return self.position == "rotary"

    def build(self, seed: int) -> MaskedAutoencoder:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return MaskedAutoencoder(self.dimensions, self.position, self.ratios)
