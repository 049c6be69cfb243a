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


@dataclass(frozen=True, slots=True)
class Move:
    """A step of one weight, or of the part of it that lies here.

    own: the part, flattened. direction: of the whole weight, flattened. piece: where the part is. rate: of the step.
    """

    own: Tensor
    direction: Tensor
    piece: Piece
    rate: float


class Muon(torch.optim.AdamW):
    """AdamW, but Muon for groups with a ``momentum``: Nesterov momentum, orthogonalised, times sqrt(rows / columns)
    where that is above 1, and decoupled weight decay.

    An update has spectral norm 1 or so, times the rate. groups: of AdamW, those of Muon with a ``momentum``. shapes: of
    the weights in the latter, [maps, rows, columns]. dtype: of the products. stacked: most elements of weights that are
    collected so that those of equal shape are orthogonalised in one product; 0: each weight by itself.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        shapes: Mapping[nn.Parameter, Shape],
        betas: tuple[float, float],
        dtype: torch.dtype,
        stacked: int = 0,
    ) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self.shapes = shapes
        self._dtype, self._stacked = dtype, stacked
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
        moves = (
            move
            for group in groups
            if "momentum" in group
            for master in group["params"]
            if master.grad is not None
            for move in self._moves(master, master.grad, group)
        )
        for together in stacks(moves, self._stacked):
            self._make(together)

    def _moves(self, master: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> Iterator[Move]:
        """What is left to do for the weights in one master tensor, once momentum and decay are done."""
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
            yield _move(flat, piece, direction.narrow(0, piece.offset, piece.length), group["lr"])
        for together in _chunks(pieces.cut):
            parts = torch.split(self._gather(together, direction), [piece.elements for piece in together])
            for piece, part in zip(together, parts, strict=True):
                if piece.length:
                    yield _move(flat, piece, part, group["lr"])

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

    def _make(self, moves: Sequence[Move]) -> None:
        """Moves of weights whose matrices have one shape."""
        directions = [move.direction.view(move.piece.shape) for move in moves]
        updates = orthogonalised(directions[0] if len(moves) == 1 else torch.cat(directions), self._dtype)
        parts = torch.split(updates, [move.piece.shape[0] for move in moves])
        for move, update in zip(moves, parts, strict=True):
            own = update.reshape(-1).narrow(0, move.piece.start, move.piece.length)
            move.own.add_(own, alpha=-move.rate)


def stacks(moves: Iterable[Move], most: int) -> Iterator[Sequence[Move]]:
    """Moves whose matrices have one shape together, of at most so many elements at once; of 0 each by itself."""
    waiting: dict[tuple[int, int], list[Move]] = {}
    held = 0
    for move in moves:
        if waiting and held + move.piece.elements > most:
            yield from waiting.values()
            waiting, held = {}, 0
        _, rows, columns = move.piece.shape
        waiting.setdefault((rows, columns), []).append(move)
        held += move.piece.elements
    yield from waiting.values()


def _move(flat: Tensor, piece: Piece, direction: Tensor, rate: float) -> Move:
    _, rows, columns = piece.shape
    own = flat.narrow(0, piece.offset, piece.length)
    return Move(own, direction, piece, rate * math.sqrt(max(1.0, rows / columns)))


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
