"""Masks for models of single snapshots: which tokens are hidden, and what the network sees instead (WiMamba).

A share of a sample's tokens is masked, real and imaginary part together since a token holds both. Of the masked ones
most show a constant, some random values and some themselves (80, 10 and 10 % as published, after BERT). Everything is
drawn by hashes of (seed, epoch, sample key, token, element): a sample's masks are the same in any batch and on any
device, and fresh every epoch.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from channels.errors import UserError
from models.interface import MaskDraw, PackedBatch, TokenBatch
from models.layers.masking import hash_packed_tokens, hash_tokens
from models.layers.packing import Layout

MaskValues = Literal["published", "paper"]

_INT64_MAX = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskPolicy:
    """share: masked part of a sample's tokens. constant, random, kept: what shows in a masked token, in parts of 1.

    values: ``published`` (constant 0.1, uniform random values in [0, 1)) or ``paper`` (constant 1, standard normal).
    """

    share: float
    constant: float
    random: float
    kept: float
    values: MaskValues

    def __post_init__(self) -> None:
        """Raises UserError for shares out of range."""
        if not 0 < self.share <= 1:
            raise UserError(f"{self.share!r} is not a share of (0, 1]", where="mask_share", mend="published: 0.4")
        parts = (self.constant, self.random, self.kept)
        if min(parts) < 0 or not math.isclose(sum(parts), 1, abs_tol=1e-6):
            raise UserError(
                f"{parts!r} are not shares that add up to 1", where="policy", mend="published: 0.8, 0.1, 0.1"
            )

    def masked_tokens(self, length: int) -> int:
        """Masked tokens of a sample of ``length`` tokens: the share rounded down, at least 1."""
        return max(1, math.floor(self.share * length))


class Masked(NamedTuple):
    """masked: bool [B, L], the tokens to be predicted. tokens: float32 [B, L, D], what the network sees.

    Of a packed batch: [N] and [N, D].
    """

    masked: Tensor
    tokens: Tensor


def mask_tokens(batch: TokenBatch | PackedBatch, draw: MaskDraw, policy: MaskPolicy) -> Masked:
    """Masks of training."""
    scores = _scores(batch, draw)
    masked = _lowest(scores, batch, policy)
    choice = _uniform(hash_tokens(scores.flatten(), _index(1, batch), draw)).view_as(scores)
    shown = torch.where((choice < policy.constant)[..., None], _constant(policy), _random(scores, batch, draw, policy))
    hidden = masked & (choice < policy.constant + policy.random)
    return Masked(masked=masked, tokens=_replace(batch, hidden, shown))


def hide_tokens(batch: TokenBatch | PackedBatch, seed: int, policy: MaskPolicy) -> Masked:
    """Masks of evaluation, a function of (seed, key): all masked tokens show the constant, none shows itself."""
    masked = _lowest(_scores(batch, MaskDraw(seed=seed, epoch=0)), batch, policy)
    return Masked(masked=masked, tokens=_replace(batch, masked, torch.full_like(batch.tokens, _constant(policy))))


def _scores(batch: TokenBatch | PackedBatch, draw: MaskDraw) -> Tensor:
    """Int64 [B, L] or [N], different for every token of a sample."""
    if isinstance(batch, PackedBatch):
        layout = Layout.of(batch)
        return hash_packed_tokens(batch.keys, layout.sample, layout.index, draw)
    return hash_tokens(batch.keys, _index(batch.tokens.shape[1], batch), draw)


def _lowest(scores: Tensor, batch: TokenBatch | PackedBatch, policy: MaskPolicy) -> Tensor:
    """Bool [B, L] or [N]: of each sample the valid tokens with the lowest scores."""
    if isinstance(batch, PackedBatch):
        layout = Layout.of(batch)
        ranks = torch.empty_like(scores).scatter(0, layout.by_score(scores), layout.index)
        return ranks < _counts(layout.lengths, policy)[layout.sample]
    valid = _index(scores.shape[1], batch) < batch.lengths[:, None]
    counts = _counts(batch.lengths, policy)
    ranks = torch.where(valid, scores, _INT64_MAX).argsort(dim=1).argsort(dim=1)
    return valid & (ranks < counts[:, None])


def _counts(lengths: Tensor, policy: MaskPolicy) -> Tensor:
    """Masked tokens int64 [B] of samples of lengths [B]."""
    return (lengths.double() * policy.share).floor().long().clamp(min=1)


def _replace(batch: TokenBatch | PackedBatch, hidden: Tensor, shown: Tensor) -> Tensor:
    tokens = torch.where(hidden[..., None], shown, batch.tokens)
    return tokens if batch.elements is None else tokens * batch.elements


def _constant(policy: MaskPolicy) -> float:
    return 0.1 if policy.values == "published" else 1.0


def _random(scores: Tensor, batch: TokenBatch | PackedBatch, draw: MaskDraw, policy: MaskPolicy) -> Tensor:
    """Random values float32 [B, L, D] or [N, D]."""
    elements = _index(batch.tokens.shape[-1], batch) + 1
    uniform = _uniform(hash_tokens(scores.flatten(), elements, draw)).view_as(batch.tokens)
    if policy.values == "published":
        return uniform
    normal: Tensor = torch.special.ndtri(uniform.clamp(min=2.0**-25))
    return normal


def _uniform(hashes: Tensor) -> Tensor:
    """Float32 in [0, 1), of the upper 24 bits."""
    return ((hashes >> 40) & (2**24 - 1)).float() * 2.0**-24


def _index(count: int, batch: TokenBatch | PackedBatch) -> Tensor:
    return torch.arange(count, device=batch.tokens.device)
