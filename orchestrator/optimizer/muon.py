"""Muon (Jordan 2024) for the matrices of blocks beside AdamW for all else, on masters that ZeRO may have cut to pieces.

Momentum is a sum element by element, so each rank keeps that of its own share, as AdamW's moments. Only to
orthogonalise an update a rank needs whole matrices: those cut between ranks are put together for the time of a step.
DeepSpeed's own Muon orthogonalises before it clips, so that a norm of 1 would shrink updates rather than gradients, and
keeps momentum in a layout that follows from rank and stage.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.layers.matrices import Shape
from orchestrator.optimizer.newton_schulz import orthogonalised

MOMENTUM = 0.95
MOST_GATHERED = 2**25
"""Most elements of cut matrices that are put together at once, unless a single one is larger."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a weight that lies in one master tensor, here or on another rank.

    shape: of the whole weight, [maps, rows, columns]. start: first element of the range that this rank holds, in the
    flattened weight. offset: the same element in the flattened master. length: of the range, 0 for none.
    """

    shape: Shape
    start: int = 0
    offset: int = 0
    length: int = 0

    @property
    def elements(self) -> int:
        """Of the whole weight."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Pieces:
    """What lies in one master tensor: weights that are there whole, and those cut between ranks, the same on each."""

    whole: Sequence[Piece]
    cut: Sequence[Piece]


class Muon(torch.optim.AdamW):
    """AdamW, but Muon for groups with a ``momentum``: Nesterov momentum, orthogonalised, times sqrt(rows / columns)
    where that is above 1, and decoupled weight decay.

    An update has spectral norm 1 or so, times the rate. groups: of AdamW, those of Muon with a ``momentum``. shapes: of
    the weights in the latter, [maps, rows, columns]. dtype: of the products.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        shapes: Mapping[nn.Parameter, Shape],
        betas: tuple[float, float],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self.shapes = shapes
        self._dtype = dtype
        self._pieces: Mapping[Tensor, Pieces] = {}
        self._add_up: Callable[[Tensor], None] = _alone

    def place(self, pieces: Mapping[Tensor, Pieces], add_up: Callable[[Tensor], None]) -> None:
        """Say what lies where. pieces: by master tensor. add_up: sums a tensor over the ranks, in place."""
        self._pieces, self._add_up = pieces, add_up

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every master that has a gradient; all ranks step the same ones in the same order."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for master in group["params"] if "momentum" in group else ():
                if master.grad is not None:
                    self._step_matrices(master, master.grad, group)

    def _step_matrices(self, master: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[master]
        if not state:
            state["step"], state["momentum"] = torch.zeros((), device=master.device), torch.zeros_like(master)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]).reshape(-1)
        if not self._pieces:
            # DeepSpeed makes a step of zero gradients by itself, before it is known what lies where.
            return
        master.mul_(1 - group["lr"] * group["weight_decay"])
        pieces, flat = self._pieces[master], master.view(-1)
        for piece in pieces.whole:
            self._move(flat, piece, direction.narrow(0, piece.offset, piece.length), group["lr"])
        for together in _chunks(pieces.cut):
            parts = torch.split(self._gather(together, direction), [piece.elements for piece in together])
            for piece, part in zip(together, parts, strict=True):
                if piece.length:
                    self._move(flat, piece, part, group["lr"])

    def _gather(self, cut: Sequence[Piece], direction: Tensor) -> Tensor:
        """The whole directions of weights of which each rank has a part, one behind the other."""
        whole = direction.new_zeros(sum(piece.elements for piece in cut))
        first = 0
        for piece in cut:
            own = direction.narrow(0, piece.offset, piece.length)
            whole.narrow(0, first + piece.start, piece.length).copy_(own)
            first += piece.elements
        self._add_up(whole)
        return whole

    def _move(self, flat: Tensor, piece: Piece, direction: Tensor, rate: float) -> None:
        _, rows, columns = piece.shape
        update = orthogonalised(direction.view(piece.shape), self._dtype).reshape(-1)
        own = flat.narrow(0, piece.offset, piece.length)
        own.add_(update.narrow(0, piece.start, piece.length), alpha=-rate * math.sqrt(max(1.0, rows / columns)))


def _alone(_: Tensor) -> None:
    """The sum over a single rank."""


def _chunks(cut: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Neighbours of at most MOST_GATHERED elements together, or a single piece of more."""
    chunk: list[Piece] = []
    for piece in cut:
        if chunk and sum(other.elements for other in chunk) + piece.elements > MOST_GATHERED:
            yield chunk
            chunk = []
        chunk.append(piece)
    if chunk:
        yield chunk
