"""Released checkpoints of WiMamba and LWM: names of their public code, which trains both with one script.

The published tokeniser interleaves real and imaginary parts along the subcarriers, ours has all real parts before all
imaginary ones: the inputs of the embedding and the outputs of the head change their order.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from channels.errors import UserError
from models.released.rules import Rule
from models.released.tensors import count_layers, rows
from models.snapshot.lwm import LwmSpec
from models.snapshot.mamba_layers import MambaSize
from models.snapshot.spec import SnapshotSpec
from models.snapshot.wimamba import WiMambaSpec

SIZES: tuple[Literal["published", "tiny"], ...] = ("published", "tiny")
EMBEDDINGS = "resolution_embeddings"
ONE_PATCH = {"wimamba": "proj", "lwm": "embedding.proj"}
"""Name of the embedding in a checkpoint of one granularity."""
SENTINEL = {"wimamba": "layers.0.mamba.input_norm.weight", "lwm": "layers.0.enc_self_attn.W_Q.weight"}
"""A tensor that only this network has."""

DIRECTIONS = ("forward", "backward")
_KINDS = ("weight", "bias")
_NORM = ("alpha", "bias")


def wimamba_options(weights: Mapping[str, Tensor], size: str | None) -> dict[str, Any]:
    """Options of ``WiMambaSpec``. Raises UserError for sizes it does not have."""
    mamba = "layers.0.mamba.mamba_forward"
    state, taps = (_last_axis(weights, f"{mamba}.{name}") for name in ("A_log", "conv1d.weight"))
    return {**_options("wimamba", WiMambaSpec, weights, size), "state": state, "conv": taps}


def lwm_options(weights: Mapping[str, Tensor], size: str | None) -> dict[str, Any]:
    """Options of ``LwmSpec``. Raises UserError for sizes it does not have."""
    table = "pos_embed.weight" if _has_several(weights) else "embedding.pos_embed.weight"
    return {**_options("lwm", LwmSpec, weights, size), "positions": rows(weights, table)}


def wimamba_rules(spec: WiMambaSpec, weights: Mapping[str, Tensor]) -> list[Rule]:
    """A rule for each of our tensors."""
    found = _ends(spec, weights, "wimamba")
    found += [Rule(f"embedding.norm.{kind}", (f"input_norm.{kind}",)) for kind in _KINDS]
    found += [Rule(f"head.norm.{kind}", (f"norm.{kind}",)) for kind in _KINDS]
    for layer in range(spec.depth):
        found += _mamba_layer(f"backbone.layers.{layer}", f"layers.{layer}", spec.mamba)
    return found


def lwm_rules(spec: LwmSpec, weights: Mapping[str, Tensor]) -> list[Rule]:
    """A rule for each of our tensors."""
    table, norm = ("pos_embed", "embed_norm") if _has_several(weights) else ("embedding.pos_embed", "embedding.norm")
    found = [*_ends(spec, weights, "lwm"), Rule("embedding.positions", (f"{table}.weight",))]
    found += _unbiased_norm("embedding.norm", norm) + _unbiased_norm("head.norm", "norm")
    for layer in range(spec.depth):
        found += _attention_layer(f"backbone.layers.{layer}", f"layers.{layer}")
    return found


def published_order(side: int) -> Tensor:
    """Index in a published token of each element of ours, int64 [2 p^2], for patches of side p."""
    element = torch.arange(2 * side * side)
    part, row, column = element // (side * side), element // side % side, element % side
    return row * 2 * side + 2 * column + part


def _options(
    name: str, spec: type[WiMambaSpec | LwmSpec], weights: Mapping[str, Tensor], size: str | None
) -> dict[str, Any]:
    patches = _patches(name, weights)
    if size is None:
        found = rows(weights, "linear.weight"), count_layers(weights, "layers")
        known = {each: spec(size=each) for each in SIZES}
        size = next((each for each, made in known.items() if (made.width, made.depth) == found), None)
        if size is None:
            told = ", ".join(f"{each} ({made.depth} of width {made.width})" for each, made in known.items())
            raise UserError(f"no size has {found[1]} layers of width {found[0]}", mend=f"known: {told}")
    return {"size": size, "patches": patches}


def _patches(name: str, weights: Mapping[str, Tensor]) -> list[int]:
    """Patch sides of the embeddings. Raises UserError for a length that is no 2 p^2."""
    if _has_several(weights):
        parts = [key.split(".")[1] for key in weights if key.startswith(f"{EMBEDDINGS}.")]
        lengths = sorted({int(part) for part in parts if part.isdecimal()})
    else:
        lengths = [_last_axis(weights, f"{ONE_PATCH[name]}.weight")]
    sides = [math.isqrt(length // 2) for length in lengths]
    odd = [length for length, side in zip(lengths, sides, strict=True) if side < 1 or 2 * side * side != length]
    if odd:
        raise UserError(f"tokens of {odd[0]} values are no square patches", mend="expected 2 p^2: 8, 32, 72, 128")
    return sides


def _has_several(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(f"{EMBEDDINGS}.") for key in weights)


def _last_axis(weights: Mapping[str, Tensor], name: str) -> int:
    if name not in weights or weights[name].ndim == 0:
        raise UserError(f"{name!r} is missing", mend="take a checkpoint of the whole network")
    return weights[name].shape[-1]


def _ends(spec: SnapshotSpec, weights: Mapping[str, Tensor], name: str) -> list[Rule]:
    """Embedding and head, but for norms."""
    found = [Rule(f"head.hidden.{kind}", (f"linear.{kind}",)) for kind in _KINDS]
    for side in spec.patches:
        order, length = published_order(side), 2 * side * side
        if _has_several(weights):
            embedding, decoder = f"{EMBEDDINGS}.{length}", f"resolution_decoders.{length}"
            bias = f"resolution_decoder_biases.{length}"
        else:
            embedding, decoder, bias = ONE_PATCH[name], "decoder", "decoder_bias"
        found += [
            Rule(f"embedding.maps.{side}.weight", (f"{embedding}.weight",), order=order, axis=1),
            Rule(f"embedding.maps.{side}.bias", (f"{embedding}.bias",)),
            Rule(f"head.maps.{side}.weight", (f"{decoder}.weight",), order=order),
            Rule(f"head.maps.{side}.bias", (bias,), order=order),
        ]
    return found


def _mamba_layer(ours: str, theirs: str, size: MambaSize) -> list[Rule]:
    modules = {
        "norm_in": "mamba.input_norm",
        "proj_in": "mamba.input_proj",
        "proj_out": "mamba.output_proj",
        "norm_mixed": "mamba.norm",
        "network.0": "ffn.0",
        "network.3": "ffn.3",
        "norm_out": "norm",
    }
    inner, state, rank, half = size.inner, size.state, size.rank, size.half
    both: dict[str, tuple[str, tuple[int, ...]]] = {
        "in_weight": ("in_proj.weight", (2 * inner, half)),
        "conv_weight": ("conv1d.weight", (inner, 1, size.conv)),
        "conv_bias": ("conv1d.bias", (inner,)),
        "select_weight": ("x_proj.weight", (rank + 2 * state, inner)),
        "step_weight": ("dt_proj.weight", (inner, rank)),
        "step_bias": ("dt_proj.bias", (inner,)),
        "log_decay": ("A_log", (inner, state)),
        "skip": ("D", (inner,)),
        "out_weight": ("out_proj.weight", (half, inner)),
    }
    found = [Rule(f"{ours}.{a}.{kind}", (f"{theirs}.{b}.{kind}",)) for a, b in modules.items() for kind in _KINDS]
    for a, (b, shape) in both.items():
        found.append(Rule(f"{ours}.mamba.{a}", tuple(f"{theirs}.mamba.mamba_{way}.{b}" for way in DIRECTIONS), shape))
    return found


def _attention_layer(ours: str, theirs: str) -> list[Rule]:
    modules = {"proj": "enc_self_attn.linear", "network.0": "pos_ffn.fc1", "network.3": "pos_ffn.fc2"}
    found = [Rule(f"{ours}.{a}.{kind}", (f"{theirs}.{b}.{kind}",)) for a, b in modules.items() for kind in _KINDS]
    for kind in _KINDS:
        found.append(Rule(f"{ours}.qkv.{kind}", tuple(f"{theirs}.enc_self_attn.W_{part}.{kind}" for part in "QKV")))
    return [
        *found,
        *_unbiased_norm(f"{ours}.norm_mixed", f"{theirs}.norm1"),
        *_unbiased_norm(f"{ours}.norm_out", f"{theirs}.norm2"),
    ]


def _unbiased_norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.{a}", (f"{theirs}.{b}",)) for a, b in zip(_KINDS, _NORM, strict=True)]
