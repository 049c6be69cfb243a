"""WiFo's options, sizes and network (Liu et al., "WiFo: Wireless Foundation Model for Channel Prediction", Table 2)."""

from dataclasses import dataclass
from typing import Literal

import torch

from models.autoencoder.sizes import Size, StackSize
from models.autoencoder.spec import AutoencoderSpec
from models.wifo.model import Wifo

HEADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WifoSpec(AutoencoderSpec):
    """WiFo's options beside the masked shares.

    position: ``stf``, as in the paper; ``published``, the encoder's as the published code has them for the time and
    frequency tasks, which its released weights need (padded batches only).
    """

    size: Literal["tiny", "little", "small", "base", "large"] = "base"
    position: Literal["stf", "published"] = "stf"

    @property
    def name(self) -> str:
        """``wifo``."""
        return "wifo"

    @property
    def dimensions(self) -> Size:
        """Dimensions of the network."""
        return network_size(self.size)

    @property
    def packs(self) -> bool:
        """With the paper's positions; the published ones are kept for padded batches."""
        return self.position == "stf"

    def build(self, seed: int) -> Wifo:
        """The network in float32 on the CPU, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return Wifo(self.dimensions, self.ratios, published_positions=self.position == "published")


def network_size(name: str) -> Size:
    """``tiny`` 355,776 parameters, ``little`` 1,374,976, ``small`` 5,404,032, ``base`` 21,424,768, ``large``
    85,846,400; encoder and decoder have one width."""
    width, depth, expansion = {
        "tiny": (64, 6, 2),
        "little": (128, 6, 2),
        "small": (256, 6, 2),
        "base": (512, 6, 2),
        "large": (768, 8, 4),
    }[name]
    return Size(StackSize(width, depth, HEADS, expansion), StackSize(width, 4, HEADS, expansion))
