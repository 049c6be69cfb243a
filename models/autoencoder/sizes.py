"""Dimensions of masked auto-encoders over 3-D patches, and what a forward pass costs."""

from dataclasses import dataclass

from models.interface import Shape
from models.layers.attention import block_macs

PATCH: Shape = (4, 4, 4)
TOKEN_WIDTH = 2 * PATCH[0] * PATCH[1] * PATCH[2]


@dataclass(frozen=True, slots=True)
class StackSize:
    """Dimensions of an encoder or decoder."""

    width: int
    depth: int
    heads: int
    expansion: int


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a network."""

    encoder: StackSize
    decoder: StackSize


def pass_macs(size: Size, kept: int, length: int) -> int:
    """Multiply-accumulates of one mask pass: ``kept`` tokens in the encoder, all ``length`` in the decoder."""
    encoder, decoder = size.encoder, size.decoder
    ends = kept * encoder.width * (TOKEN_WIDTH + decoder.width) + length * decoder.width * TOKEN_WIDTH
    encoding = encoder.depth * block_macs(kept, encoder.width, encoder.expansion)
    return ends + encoding + decoder.depth * block_macs(length, decoder.width, decoder.expansion)
