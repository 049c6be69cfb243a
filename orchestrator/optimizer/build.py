"""The optimizer that a job asks for, over a whole model and then over what ZeRO leaves of it on this rank."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.layers.matrices import Shape, block_matrices
from models.layers.parameters import optimizer_groups
from orchestrator.checkpoint import deepspeed_private as private
from orchestrator.checkpoint.deepspeed_private import MasterRange
from orchestrator.optimizer.muon import MOMENTUM, MOST_GATHERED, Muon, Piece, Pieces
from orchestrator.spec.train import TrainSection


def make_optimizer(model: nn.Module, train: TrainSection, device: str) -> torch.optim.AdamW:
    """AdamW, or Muon for the matrices of the blocks; frozen parameters are in no group. Each step sets the rates.

    Raises:
        UserError: a ``layer_lr_decay`` of a model that names no layers, or nothing that Muon could train.
    """
    groups = [dict(group) for group in optimizer_groups(model, train.weight_decay, train.layer_lr_decay)]
    if train.optimizer == "adamw":
        # DeepSpeed makes a step by itself at the start, which must change nothing.
        return torch.optim.AdamW(groups, lr=0.0, betas=train.betas, fused=True)
    shapes = block_matrices(model)
    # bfloat16 is enough for the iterations (Jordan 2024), and slower than float32 on most CPUs.
    dtype = torch.bfloat16 if device == "cuda" and train.precision != "fp32" else torch.float32
    # A GPU would wait for the host between many small products.
    stacked = MOST_GATHERED if device == "cuda" else 0
    return Muon(_split(groups, shapes, train.muon_lr / train.lr), shapes, train.betas, dtype, stacked)


def _split(
    groups: Sequence[dict[str, Any]], shapes: Mapping[nn.Parameter, Shape], ratio: float
) -> list[dict[str, Any]]:
    """Groups in two, Muon's part of each first. ratio: of Muon's rate to AdamW's, which follow the same schedule."""
    parts = []
    for group in groups:
        ours = [parameter for parameter in group["params"] if parameter in shapes]
        others = [parameter for parameter in group["params"] if parameter not in shapes]
        if ours:
            parts.append(group | {"params": ours, "lr_scale": ratio * group["lr_scale"], "momentum": MOMENTUM})
        if others:
            parts.append(group | {"params": others})
    return parts


def place_matrices(
    optimizer: Muon, wrapper: Any, *, stage: int, rank: int, device: torch.device, add_up: Callable[[Tensor], None]
) -> None:
    """Tell Muon which rank has what of each weight (collective). wrapper: DeepSpeed's, around the optimizer.

    add_up: sums a tensor over the ranks, in place.
    """
    weights = list(optimizer.shapes)
    masters = [master for master, _ in private.masters(wrapper, stage)]
    number_of = {id(master): number for number, master in enumerate(masters)}
    held = {id(found.parameter): found for found in private.ranges(wrapper, stage, weights, rank)}
    own = [held.get(id(weight)) for weight in weights]
    # A rank cannot see of what it has nothing in which master it lies, and whether it is cut.
    table = torch.tensor([_place(found, number_of, optimizer.shapes) for found in own], device=device)
    dist.all_reduce(table, op=dist.ReduceOp.MAX)
    whole: list[list[Piece]] = [[] for _ in masters]
    cut: list[list[Piece]] = [[] for _ in masters]
    for weight, found, (master, is_cut) in zip(weights, own, table.tolist(), strict=True):
        shape = optimizer.shapes[weight]
        piece = Piece(shape) if found is None else Piece(shape, found.start, found.offset, found.length)
        if is_cut:
            cut[master].append(piece)
        elif piece.length:
            whole[master].append(piece)
    optimizer.place({master: Pieces(whole[number], cut[number]) for number, master in enumerate(masters)}, add_up)


def _place(
    found: MasterRange | None, number_of: Mapping[int, int], shapes: Mapping[nn.Parameter, Shape]
) -> tuple[int, bool]:
    """Number of a weight's master tensor, -1 where this rank has nothing of it; and whether it has a part only."""
    if found is None:
        return -1, False
    maps, rows, columns = shapes[found.parameter]
    return number_of[id(found.master)], found.length < maps * rows * columns
