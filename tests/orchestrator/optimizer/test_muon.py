"""Muon's step by its formula, whole and cut; groups; a run's numbers on real ranks, resumed and at any ZeRO stage."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.layers.matrices import Shape
from models.registry import make_spec
from orchestrator.optimizer.build import make_optimizer
from orchestrator.optimizer.muon import MOMENTUM, MOST_GATHERED, Move, Muon, Piece, Pieces, stacks
from orchestrator.optimizer.newton_schulz import orthogonalised
from orchestrator.spec.job import JobSpec
from orchestrator.spec.train import TrainSection
from tests.jobs_for_tests import small_job
from tests.orchestrator.checkpoint.test_format import train as train_and_save
from tests.orchestrator.training.test_engine import train_some

SHAPES: tuple[Shape, ...] = ((3, 4, 4), (1, 12, 4), (1, 4, 6))
EQUAL: tuple[Shape, ...] = ((3, 8, 8), (1, 20, 8), (1, 8, 8), (2, 20, 8), (1, 8, 20), (1, 20, 8))
RATE, DECAY = 0.1, 0.5


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(maps * rows * columns, generator=generator) for maps, rows, columns in SHAPES]


def expected(steps: int) -> list[Tensor]:
    """Weights after some steps, written out."""
    weights, momenta = drawn(0), [torch.zeros_like(weight) for weight in drawn(0)]
    for step in range(1, steps + 1):
        for weight, momentum, gradient, shape in zip(weights, momenta, drawn(step), SHAPES, strict=True):
            momentum.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
            direction = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
            update = orthogonalised(direction.view(shape), torch.float32).reshape(-1)
            weight.mul_(1 - RATE * DECAY).sub_(RATE * max(1.0, shape[1] / shape[2]) ** 0.5 * update)
    return weights


class Sums:
    """Adds up tensors of ranks that are threads."""

    def __init__(self, world: int) -> None:
        self.barrier = Barrier(world)
        self.given: list[Tensor] = []

    def add_up(self, tensor: Tensor) -> None:
        self.given.append(tensor.clone())
        self.barrier.wait(timeout=10)
        tensor.copy_(torch.stack(self.given).sum(dim=0))
        if self.barrier.wait(timeout=10) == 0:
            self.given.clear()
        self.barrier.wait(timeout=10)


def pieces_in(first: int, last: int) -> list[Piece]:
    """What a range of the weights laid end to end has of each."""
    pieces, at = [], 0
    for shape in SHAPES:
        size = Piece(shape).elements
        low, high = max(at, first), min(at + size, last)
        pieces.append(Piece(shape, low - at, low - first, high - low) if low < high else Piece(shape))
        at += size
    return pieces


def step_share(first: int, last: int, is_cut: list[bool], sums: Sums, steps: int) -> Tensor:
    """A rank's range of the weights after some steps."""
    master = nn.Parameter(torch.cat(drawn(0))[first:last].clone())
    group = {"params": [master], "weight_decay": DECAY, "momentum": MOMENTUM}
    optimizer = Muon([group], {}, (0.9, 0.95), torch.float32)
    held = list(zip(pieces_in(first, last), is_cut, strict=True))
    whole = [piece for piece, cut in held if not cut and piece.length]
    optimizer.place({master: Pieces(whole, [piece for piece, cut in held if cut])}, sums.add_up)
    optimizer.param_groups[0]["lr"] = RATE
    for step in range(1, steps + 1):
        master.grad = torch.cat(drawn(step))[first:last].clone()
        optimizer.step()
    return master.detach()


@pytest.mark.parametrize("ranges", [[(0, 120)], [(0, 60), (60, 120)], [(0, 7), (7, 52), (52, 120)]])
def test_a_step_is_the_same_whole_and_cut(ranges: list[tuple[int, int]]) -> None:
    """Boundaries inside queries, keys and values, inside a tall and a wide matrix; a rank with nothing of some."""
    held = [pieces_in(*own) for own in ranges]
    is_cut = [all(piece.length < piece.elements for piece in parts) for parts in zip(*held, strict=True)]
    sums = Sums(len(ranges))
    with ThreadPoolExecutor(len(ranges)) as ranks:
        parts = list(ranks.map(lambda own: step_share(*own, is_cut, sums, 3), ranges))
    torch.testing.assert_close(torch.cat(parts), torch.cat(expected(3)), rtol=0, atol=1e-5)
    assert any(is_cut) == (len(ranges) > 1)


def step_masters(stacked: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Weights of several shapes, each a master of its own, after three steps at two rates."""
    generator = torch.Generator().manual_seed(0)
    masters = [nn.Parameter(torch.randn(Piece(shape).elements, generator=generator)) for shape in EQUAL]
    groups = [{"params": part, "weight_decay": DECAY, "momentum": MOMENTUM} for part in (masters[:2], masters[2:])]
    optimizer = Muon(groups, {}, (0.9, 0.95), dtype, stacked)
    whole = {
        master: Pieces([Piece(shape, length=Piece(shape).elements)], [])
        for master, shape in zip(masters, EQUAL, strict=True)
    }
    optimizer.place(whole, lambda tensor: None)
    for group, rate in zip(optimizer.param_groups, (RATE, 0.5 * RATE), strict=True):
        group["lr"] = rate
    for _ in range(3):
        for master in masters:
            master.grad = torch.randn(master.shape, generator=generator)
        optimizer.step()
    return [master.detach() for master in masters]


@pytest.mark.parametrize("stacked", [1, 400, 2**25])
def test_matrices_of_equal_shape_stacked_give_the_same_step(stacked: int) -> None:
    for one, other in zip(step_masters(0), step_masters(stacked), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("most", "sizes"), [(0, [1] * 6), (192, [1] * 6), (672, [2, 1, 2, 1]), (2**25, [2, 3, 1])])
def test_weights_are_stacked_by_shape_up_to_a_size(most: int, sizes: list[int]) -> None:
    nothing = torch.zeros(0)
    moves = [Move(nothing, nothing, Piece(shape), 1.0) for shape in EQUAL]
    found = list(stacks(moves, most))
    assert [len(together) for together in found] == sizes
    assert sorted(id(move) for together in found for move in together) == sorted(map(id, moves))
    assert all(len({move.piece.shape[1:] for move in together}) == 1 for together in found)


@pytest.mark.parametrize(("device", "stacked"), [("cpu", 0), ("cuda", MOST_GATHERED)])
def test_only_on_a_gpu_are_matrices_stacked(device: str, stacked: int) -> None:
    model = make_spec("hetercsi", {"size": "tiny"}).build(seed=0)
    optimizer = make_optimizer(model, TrainSection(optimizer="muon"), device)
    assert isinstance(optimizer, Muon) and optimizer._stacked == stacked


def test_groups_have_their_own_rates_and_all_parameters_once() -> None:
    model = make_spec("hetercsi", {"size": "tiny"}).build(seed=0)
    train = TrainSection(optimizer="muon", lr=1e-3, muon_lr=0.05, layer_lr_decay=0.5)
    optimizer = make_optimizer(model, train, "cpu")
    names = {parameter: name for name, parameter in model.named_parameters()}
    group_of = {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(group_of) == len(names) == sum(len(group["params"]) for group in optimizer.param_groups)
    last = group_of["decoder.blocks.1.mlp.0.weight"]
    assert (last["momentum"], last["lr_scale"], last["weight_decay"]) == (0.95, pytest.approx(0.5 * 50), 0.05)
    assert group_of["decoder.blocks.0.attention.qkv.weight"]["lr_scale"] == pytest.approx(0.25 * 50)
    for name in ("mask_token", "head.weight", "patch_embedding.weight", "decoder.blocks.1.norm1.weight"):
        assert "momentum" not in group_of[name]
    assert group_of["head.weight"]["lr_scale"] == 1.0
    assert type(make_optimizer(model, TrainSection(), "cpu")) is torch.optim.AdamW


def muon_job(store: Path, stage: int, **fields: Any) -> JobSpec:
    return small_job(store, train={"zero_stage": stage, "optimizer": "muon", **fields})


def test_every_zero_stage_and_precision_gives_the_same_training(ranks: Any, small_store: Path) -> None:
    [reference] = ranks(1, train_some, muon_job(small_store, 0), 3)
    assert reference["losses"][-1].mean() < 0.95 * reference["losses"][0].mean()
    for stage in (1, 2, 3):
        result, other = ranks(2, train_some, muon_job(small_store, stage), 3)
        np.testing.assert_array_equal(result["losses"], other["losses"])
        np.testing.assert_allclose(result["losses"], reference["losses"], rtol=2e-5)
        np.testing.assert_allclose(result["norms"], reference["norms"], rtol=2e-4)
        for name, weight in reference["weights"].items():
            np.testing.assert_allclose(result["weights"][name], weight, atol=4e-4, err_msg=name)
    [rounded] = ranks(1, train_some, muon_job(small_store, 0, precision="bf16_pure"), 3)
    np.testing.assert_allclose(rounded["losses"], reference["losses"], rtol=0.05)


def test_a_state_goes_on_to_the_bit_and_at_another_stage_and_world(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    root = str(tmp_path / "checkpoints")
    job = muon_job(small_store, 2)
    expected = ranks(2, train_and_save, job, "unused", True, 5, False)[0]
    ranks(2, train_and_save, job, root, True, 3, True)
    found = ranks(2, train_and_save, job, root, False, 2, False)[0]
    np.testing.assert_array_equal(found["losses"], expected["losses"][3:])
    assert found["optimizer_step"] == expected["optimizer_step"] == 5
    for name, weight in expected["weights"].items():
        np.testing.assert_array_equal(found["weights"][name], weight, err_msg=name)
    for stage, world in ((3, 1), (0, 2)):
        found = ranks(world, train_and_save, muon_job(small_store, stage), root, False, 2, False)[0]
        np.testing.assert_allclose(found["losses"], expected["losses"][3:], rtol=1e-5)
