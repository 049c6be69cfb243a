"""Released checkpoints of HeterCSI and WiFo: names of their public code, sizes by their shapes.

WiFo's patches have the antennas before the subcarriers, ours after them: the inputs of its embedding change their
order. The outputs of its head have real and imaginary part of an element beside each other, in the same order of axes.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from channels.errors import UserError
from models.autoencoder.sizes import PATCH, TOKEN_WIDTH, Size, StackSize
from models.autoencoder.spec import AutoencoderSpec
from models.hetercsi.sizes import network_size
from models.hetercsi.spec import HeterCsiSpec
from models.released.rules import Rule
from models.released.tensors import count_layers, rows
from models.wifo import spec as wifo

SENTINEL = {"hetercsi": "patch_embed.proj.weight", "wifo": "Embedding.value_embedding.tokenConv.weight"}
"""A tensor that only this network has."""
WIFO_UNUSED = ("pos_embed_", "decoder_pos_embed_")
"""Tables of positions that WiFo's code makes beside the sine-cosine ones and does not read."""

ENDS = {"encoder.norm": "norm", "decoder_embedding": "decoder_embed", "decoder.norm": "decoder_norm"}
BLOCK = {"norm1": "norm1", "attention.proj": "attn.proj", "norm2": "norm2", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
STACKS = {"encoder": "blocks", "decoder": "decoder_blocks"}
_KINDS = ("weight", "bias")


def hetercsi_options(weights: Mapping[str, Tensor], size: str | None) -> dict[str, Any]:
    """Options of ``HeterCsiSpec``, its size by the shapes unless given; positions are the published, flat ones.

    Raises:
        UserError: no such size, or the shapes are of none.
    """
    return {"size": size or _find_size("hetercsi", HeterCsiSpec, network_size, weights), "position": "flat"}


def wifo_options(weights: Mapping[str, Tensor], size: str | None) -> dict[str, Any]:
    """Options of ``WifoSpec``, its size by the shapes unless given; positions are the published ones.

    Raises:
        UserError: no such size, or the shapes are of none.
    """
    return {"size": size or _find_size("wifo", wifo.WifoSpec, wifo.network_size, weights), "position": "published"}


def hetercsi_rules(spec: HeterCsiSpec, weights: Mapping[str, Tensor]) -> list[Rule]:
    """A rule for each of our tensors."""
    ends = {"patch_embedding": "patch_embed.proj", "head": "decoder_pred"}
    found = [Rule(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for ours, theirs in ends.items() for kind in _KINDS]
    return _inner_rules(spec.dimensions) + found


def wifo_rules(spec: wifo.WifoSpec, weights: Mapping[str, Tensor]) -> list[Rule]:
    """A rule for each of our tensors."""
    embedding, head = "Embedding.value_embedding.tokenConv", "decoder_pred"
    kernel = (spec.dimensions.encoder.width, 2, *PATCH)
    inputs, outputs = wifo_orders()
    ends = [
        Rule("patch_embedding.weight", (f"{embedding}.weight",), shape=kernel, order=inputs, axis=1),
        Rule("patch_embedding.bias", (f"{embedding}.bias",)),
        *(Rule(f"head.{kind}", (f"{head}.{kind}",), order=outputs) for kind in _KINDS),
    ]
    return _inner_rules(spec.dimensions) + ends


def wifo_orders() -> tuple[Tensor, Tensor]:
    """Index among WiFo's inputs of a token, and among its outputs, of each element of our token, int64 [128] each."""
    slots, subcarriers, antennas = PATCH
    complex_element = torch.arange(TOKEN_WIDTH // 2).view(slots, antennas, subcarriers)
    ours = complex_element.transpose(1, 2).flatten()
    return torch.cat([ours, ours + TOKEN_WIDTH // 2]), torch.cat([2 * ours, 2 * ours + 1])


def _inner_rules(size: Size) -> list[Rule]:
    """Of all tensors but those of embedding and head."""
    found = [Rule("mask_token", ("mask_token",))]
    found += [Rule(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for ours, theirs in ENDS.items() for kind in _KINDS]
    for stack, depth in (("encoder", size.encoder.depth), ("decoder", size.decoder.depth)):
        for layer in range(depth):
            found += _block(f"{stack}.blocks.{layer}", f"{STACKS[stack]}.{layer}")
    return found


def _block(ours: str, theirs: str) -> list[Rule]:
    same = [Rule(f"{ours}.{a}.{kind}", (f"{theirs}.{b}.{kind}",)) for a, b in BLOCK.items() for kind in _KINDS]
    parts = [tuple(f"{theirs}.attn.{part}.{kind}" for part in "qkv") for kind in _KINDS]
    return same + [Rule(f"{ours}.attention.qkv.{kind}", names) for kind, names in zip(_KINDS, parts, strict=True)]


def _find_size(
    name: str, spec: type[AutoencoderSpec], dimensions: Callable[[str], Size], weights: Mapping[str, Tensor]
) -> str:
    """The size of these shapes, out of the choices of a specification. Raises UserError where there is none."""
    known: list[str] = list(get_args(get_type_hints(spec)["size"]))
    found = _size(weights, SENTINEL[name])
    for size in known:
        if _shown(dimensions(size)) == found:
            return size
    told = ", ".join(f"{size} ({_text(_shown(dimensions(size)))})" for size in known)
    raise UserError(f"no size has {_text(found)}", mend=f"known: {told}")


def _size(weights: Mapping[str, Tensor], sentinel: str) -> tuple[tuple[int, int, int], ...]:
    """(width, depth, expansion) of encoder and decoder; zeros where the tensors that tell are missing."""
    widths = (rows(weights, sentinel), rows(weights, "decoder_embed.weight"))
    return tuple(
        (width, count_layers(weights, prefix), rows(weights, f"{prefix}.0.mlp.fc1.weight") // max(width, 1))
        for width, prefix in zip(widths, STACKS.values(), strict=True)
    )


def _shown(size: Size) -> tuple[tuple[int, int, int], ...]:
    """What shapes say of a size: all but the number of heads."""

    def stack(part: StackSize) -> tuple[int, int, int]:
        return part.width, part.depth, part.expansion

    return stack(size.encoder), stack(size.decoder)


def _text(stacks: tuple[tuple[int, int, int], ...]) -> str:
    encoder, decoder = ("{} x {}, networks of {}".format(*stack) for stack in stacks)
    return f"encoder {encoder} times the width, decoder {decoder}"
