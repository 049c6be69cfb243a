"""Attention inside sequences that are laid end to end, without padding and without a mask.

On a GPU in half precision one variable-length kernel serves all sequences (``torch.nn.attention.varlen``). Everywhere
else sequences of equal length, which are neighbours, go through the fused kernel of torch as one batch.
"""

from functools import cache
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.packing import Sequences

HALF = (torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)


def packed_attention(qkv: Tensor, sequences: Sequences) -> Tensor:
    """Attention [N, heads, width] of queries, keys and values [N, 3, heads, width] of N = ``sequences.rows`` tokens."""
    if qkv.dtype in HALF and missing_kernel(qkv.device.type) is None:
        return kernel_attention(qkv, sequences)
    return grouped_attention(qkv, sequences)


def kernel_attention(qkv: Tensor, sequences: Sequences) -> Tensor:
    """The same by one kernel for all sequences (CUDA, bfloat16 or float16)."""
    return variable_length_attention(qkv, sequences.offsets, sequences.longest)


def variable_length_attention(qkv: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Attention [N, heads, width] inside sequences laid end to end; offsets: int32, first token of each and the end."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)
    return cast(Tensor, varlen_attn(query, key, value, offsets, offsets, longest, longest))


def grouped_attention(qkv: Tensor, sequences: Sequences) -> Tensor:
    """The same by one fused call for each distinct length."""
    parts = torch.split(qkv, [count * length for count, length in sequences.runs])
    mixed = [_attend(part.view(*run, *qkv.shape[1:])) for part, run in zip(parts, sequences.runs, strict=True)]
    return torch.cat(mixed)


def _attend(qkv: Tensor) -> Tensor:
    """[count * length, heads, width] of [count, length, 3, heads, width]."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)


@cache
def missing_kernel(device: str) -> str | None:
    """Why there is no variable-length kernel on a device type, None where there is one."""
    if device != "cuda":
        return f"it runs on CUDA, not on {device!r}"
    if find_spec("torch.nn.attention.varlen") is None:
        return f"torch {torch.__version__} lacks it"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return "it needs a GPU of compute capability 8.0 or more"
    return None


def describe(device: str) -> str:
    """One line for the log: what runs on a device type, and why."""
    reason = missing_kernel(device)
    if reason is None:
        return "packed attention: one variable-length kernel in half precision, a fused call a length in float32"
    return f"packed attention: a fused call a length (no variable-length kernel: {reason})"
