"""HeterCSI's released checkpoints: names of its public code, sizes by their shapes."""

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from torch import Tensor

from channels.errors import UserError
from models.hetercsi.sizes import Size, StackSize, network_size
from models.hetercsi.spec import HeterCsiSpec
from models.released.rules import Rule
from models.released.tensors import count_layers, rows

SENTINEL = "patch_embed.proj.weight"
"""A tensor that only this network has."""

ENDS = {
    "patch_embedding": "patch_embed.proj",
    "encoder.norm": "norm",
    "decoder_embedding": "decoder_embed",
    "decoder.norm": "decoder_norm",
    "head": "decoder_pred",
}
BLOCK = {"norm1": "norm1", "attention.proj": "attn.proj", "norm2": "norm2", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
STACKS = {"encoder": "blocks", "decoder": "decoder_blocks"}


def options(weights: Mapping[str, Tensor], size: str | None) -> dict[str, Any]:
    """Options of ``HeterCsiSpec``, its size by the shapes unless given; positions are the published, flat ones.

    Raises:
        UserError: no such size, or the shapes are of none.
    """
    known = list(get_args(get_type_hints(HeterCsiSpec)["size"]))
    if size is None:
        found = _size(weights)
        size = next((name for name in known if _shown(network_size(name)) == found), None)
        if size is None:
            told = ", ".join(f"{name} ({_text(_shown(network_size(name)))})" for name in known)
            raise UserError(f"no size has {_text(found)}", mend=f"known: {told}")
    return {"size": size, "position": "flat"}


def rules(spec: HeterCsiSpec, weights: Mapping[str, Tensor]) -> list[Rule]:
    """A rule for each of our tensors."""
    size = network_size(spec.size)
    found = [Rule("mask_token", ("mask_token",))]
    found += [Rule(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for ours, theirs in ENDS.items() for kind in _KINDS]
    for stack, depth in (("encoder", size.encoder.depth), ("decoder", size.decoder.depth)):
        for layer in range(depth):
            found += _block(f"{stack}.blocks.{layer}", f"{STACKS[stack]}.{layer}")
    return found


_KINDS = ("weight", "bias")


def _block(ours: str, theirs: str) -> list[Rule]:
    same = [Rule(f"{ours}.{a}.{kind}", (f"{theirs}.{b}.{kind}",)) for a, b in BLOCK.items() for kind in _KINDS]
    parts = [tuple(f"{theirs}.attn.{part}.{kind}" for part in "qkv") for kind in _KINDS]
    return same + [Rule(f"{ours}.attention.qkv.{kind}", names) for kind, names in zip(_KINDS, parts, strict=True)]


def _size(weights: Mapping[str, Tensor]) -> tuple[tuple[int, int, int], ...]:
    """(width, depth, expansion) of encoder and decoder; zeros where the tensors that tell are missing."""
    widths = (rows(weights, SENTINEL), rows(weights, "decoder_embed.weight"))
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
