"""Recomputed and compiled blocks give the numbers of plain ones, and rename nothing."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from models.interface import MaskDraw, ModelSpec, PretrainingModel, TokenBatch, Tokens
from models.layers.blocks import checkpoint_activations, compile_blocks, repeated_blocks
from models.layers.packing import pack
from models.layers.padded_attention import row_offsets
from models.registry import make_spec
from tests.models.batches import SCALES, make_batch, make_channels
from tests.models.snapshots import random_batch


def make_case(name: str) -> tuple[PretrainingModel, TokenBatch]:
    if name in ("hetercsi", "rotary"):
        spec = make_spec("hetercsi", {"size": "tiny", "position": "flat" if name == "hetercsi" else name})
        return spec.build(0), make_batch(spec)
    spec = make_spec(name, {"size": "tiny", "patches": [4]})
    return spec.build(0), random_batch(spec, 4, [(2, 16, 8), (1, 16, 4)])


def losses_and_gradients(model: PretrainingModel, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    losses = model(batch, MaskDraw(seed=1, epoch=0))
    losses.sum().backward()
    return losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(model: PretrainingModel, plain: PretrainingModel, batch: TokenBatch) -> None:
    assert list(model.state_dict()) == list(plain.state_dict())
    losses, gradients = losses_and_gradients(model, batch)
    expected, expected_gradients = losses_and_gradients(plain, batch)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "blocks"), [("hetercsi", 6), ("rotary", 6), ("wimamba", 4), ("lwm", 4)])
def test_recomputed_blocks_keep_less_and_change_nothing(name: str, blocks: int) -> None:
    (model, batch), (plain, _) = make_case(name), make_case(name)
    assert len(repeated_blocks(model)) == blocks
    checkpoint_activations(model)
    assert kept_bytes(model, batch) < 0.5 * kept_bytes(plain, batch)
    assert_same(model, plain, batch)


def kept_bytes(model: nn.Module, batch: TokenBatch) -> int:
    """What the forward pass keeps for the backward pass, weights left out."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, MaskDraw(seed=1, epoch=0))
    return sum(kept.values())


@pytest.mark.parametrize("name", ["hetercsi", "wimamba"])
def test_compiled_blocks_change_nothing(name: str) -> None:
    (model, batch), (plain, _) = make_case(name), make_case(name)
    compile_blocks(model.eval())
    assert_same(model, plain.eval(), batch)


@torch._dynamo.config.patch(recompile_limit=8)
def test_no_length_is_left_uncompiled() -> None:
    """More lengths than the compiler's own limit of eight all get a graph."""
    compiled: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        compiled.append(1)
        return graph.forward

    stack = nn.Sequential()
    stack.blocks = nn.ModuleList([nn.Linear(4, 4)])
    compile_blocks(stack)
    block = torch.compile(stack.blocks[0].forward, backend=count, dynamic=False)
    for length in range(1, 13):
        block(torch.zeros(length, 4))
    assert len(compiled) == 12


def packed_parts(spec: ModelSpec, samples: int) -> tuple[list[Tokens], NDArray[np.int64], NDArray[np.float32]]:
    snapshots = spec.name != "hetercsi"
    scales = [(1, *scale[1:]) if snapshots else scale for scale in SCALES]
    parts = [spec.tokenise(make_channels(1, scales[sample % 3], sample), 4) for sample in range(samples)]
    return parts, np.arange(samples), np.ones(samples, np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [("hetercsi", {}), ("hetercsi", {"position": "rotary"}), ("wimamba", {"patches": [4], "dropout": 0.0})],
)
def test_packed_batches_of_any_size_share_their_graphs(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object]
) -> None:
    """Each step has another number of tokens; a graph for each would be compiled for ever."""
    counter = CompileCounter()
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_module(self, backend=counter, **options))
    spec = make_spec(name, {"size": "tiny"} | options)
    model, plain = spec.build(0), spec.build(0)
    compile_blocks(model, packed=True)
    graphs = []
    for samples in range(2, 7):
        batch = pack(*packed_parts(spec, samples), 4)
        losses = model(batch, MaskDraw(seed=1, epoch=0))
        torch.testing.assert_close(losses, plain(batch, MaskDraw(seed=1, epoch=0)))
        graphs.append(counter.frame_count)
    assert graphs[1:] == [graphs[1]] * 4, graphs


@pytest.mark.parametrize("lengths", [[5], [7, 7], [1, 7, 3], [0, 4]])
def test_rows_are_two_sequences_each_of_tokens_and_padding(lengths: list[int]) -> None:
    present = torch.arange(7) < torch.tensor(lengths)[:, None]
    offsets = row_offsets(present).tolist()
    assert offsets[::2] == [7 * row for row in range(len(lengths) + 1)]
    assert [end - start for start, end in zip(offsets[::2], offsets[1::2], strict=False)] == lengths
