"""Attention inside padded rows, to whose padding no token attends.

A mask keeps torch from its fastest kernels. On a GPU in half precision long rows go through the variable-length kernel
instead: a row is two sequences there, its tokens and its padding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.packed_attention import HALF, missing_kernel, variable_length_attention

LEAST_LENGTH = 256
"""Tokens of a row from which the variable-length kernel is the faster one (H100)."""


@dataclass(frozen=True, slots=True)
class RowKeys:
    """Which tokens of every row count: the first ones.

    mask: bool [B, 1, 1, L]. offsets: int32 [2 B + 1], first token of each sequence and the end, all rows laid end to
    end; None where no kernel takes them.
    """

    mask: Tensor
    offsets: Tensor | None

    @classmethod
    def of(cls, present: Tensor) -> "RowKeys":
        """Of bool [B, L], True for the first tokens of each row."""
        offsets = None
        if present.shape[1] >= LEAST_LENGTH and missing_kernel(present.device.type) is None:
            offsets = row_offsets(present)
        return cls(visible_keys(present), offsets)


def padded_attention(qkv: Tensor, keys: RowKeys | None) -> Tensor:
    """Attention [B, L, heads, width] of queries, keys and values [B, L, 3, heads, width]."""
    if keys is not None and keys.offsets is not None and qkv.dtype in HALF:
        mixed = variable_length_attention(qkv.flatten(0, 1), keys.offsets, qkv.shape[1])
        return mixed.view(*qkv.shape[:2], *mixed.shape[1:])
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mask = None if keys is None else keys.mask
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def visible_keys(present: Tensor) -> Tensor:
    """Bool [B, 1, 1, L] of bool [B, L]. A row without any key sees its first one: its softmax stays finite."""
    first = torch.arange(present.shape[1], device=present.device) == 0
    empty = ~present.any(dim=1, keepdim=True)
    return (present | (empty & first))[:, None, None, :]


def row_offsets(present: Tensor) -> Tensor:
    """Int32 [2 B + 1]: where the tokens and the padding of every row begin, and the end."""
    rows, length = present.shape
    starts = torch.arange(rows + 1, device=present.device) * length
    padding = starts[:-1] + present.sum(dim=1)
    inner = torch.stack([starts[:-1], padding], dim=1).flatten()
    return torch.cat([inner, starts[-1:]]).int()
