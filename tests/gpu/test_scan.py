"""The selective scan on a device: every backend that runs there against float64, and encodings from a CUDA graph.

With ``--device cpu`` the backends of the CPU.
"""

import copy
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from channels.errors import UserError
from models.interface import MaskDraw, collate
from models.layers.packing import Sequences
from models.layers.parameters import cast_parameters
from models.scan.backends import Wanted, choose_backend
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend
from models.snapshot.graphs import GraphedEncode
from models.snapshot.model import SnapshotModel
from models.snapshot.wimamba import WiMambaSpec
from tests.models.scan.references import (
    ALONE,
    BOTH,
    REFERENCE,
    convolution_outcomes,
    operands,
    outcomes,
    sequences_of,
    worst,
)
from tests.models.snapshots import random_channels

pytestmark = pytest.mark.gpu
BACKENDS = [name for name in get_args(Wanted) if name != "auto"]
CLOSE = 5e-5
"""Error in float32: kernels on a GPU take the fast exponential, whose error adds up over the memory of a state."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, device: str) -> Backend:
    if request.param == "mamba_ssm":
        request.getfixturevalue("compiled_kernels")
    try:
        return choose_backend(device, request.param)
    except UserError as error:
        pytest.skip(str(error))


@cache
def expected(length: int, lengths: tuple[int, ...] | None, channels: int = 9, states: int = 8) -> list[Tensor]:
    counts = None if lengths is None else torch.tensor(lengths)
    parts = operands(1 if lengths is None else len(lengths), length, channels, states)
    return outcomes(REFERENCE, parts, torch.float64, reverse=BOTH, lengths=counts)


def found(
    backend: Backend, device: str, length: int, lengths: tuple[int, ...] | None, channels: int = 9, states: int = 8
) -> list[Tensor]:
    counts = None if lengths is None else torch.tensor(lengths, device=device)
    parts = operands(1 if lengths is None else len(lengths), length, channels, states)
    parts = {name: part.to(device) for name, part in parts.items()}
    return [part.cpu() for part in outcomes(backend, parts, torch.float32, reverse=BOTH, lengths=counts)]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 64, 257, 1000, 4097])
def test_scan_agrees_with_the_sequential_reference(backend: Backend, device: str, length: int) -> None:
    assert worst(expected(length, None), found(backend, device, length, None)) < CLOSE


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (5, 3), (76, 8), (76, 16), (19, 64)])
def test_scan_agrees_for_any_number_of_channels_and_states(
    backend: Backend, device: str, channels: int, states: int
) -> None:
    reference = expected(70, None, channels, states)
    assert worst(reference, found(backend, device, 70, None, channels, states)) < CLOSE


@pytest.mark.parametrize("lengths", [(1, 129, 200), (200, 64, 33), (5, 5, 0)])
def test_scan_agrees_for_padded_batches(backend: Backend, device: str, lengths: tuple[int, ...]) -> None:
    result = found(backend, device, 200, lengths)
    assert worst(expected(200, lengths), result) < CLOSE
    assert all(not result[0][sample, count:].any() for sample, count in enumerate(lengths))


@pytest.mark.parametrize("lengths", [(1, 2, 15, 16, 17, 33, 257), (5, 5, 5), (64, 1000)])
def test_packed_sequences_are_as_if_alone(backend: Backend, device: str, lengths: tuple[int, ...]) -> None:
    if not backend.packs:
        pytest.skip(f"{backend.name} has no sequence boundaries")
    sequences = sequences_of(*lengths)
    here = Sequences(sequences.runs, sequences.order.to(device), sequences.offsets.to(device))
    parts = operands(1, sequences.rows, 9, 8)
    reference = outcomes(ALONE, parts, torch.float64, reverse=BOTH, lengths=sequences)
    there = {name: part.to(device) for name, part in parts.items()}
    result = outcomes(backend, there, torch.float32, reverse=BOTH, lengths=here)
    assert worst(reference, [part.cpu() for part in result]) < CLOSE
    reference = convolution_outcomes(ALONE, sequences.rows, 11, 4, sequences, torch.float64)
    result = convolution_outcomes(backend, sequences.rows, 11, 4, here, torch.float32, device)
    assert worst(reference, [part.cpu() for part in result]) < CLOSE


def test_padding_reaches_nothing(backend: Backend, device: str) -> None:
    """Whatever lies in padding, outputs and gradients of the valid tokens are the same bits."""
    results = []
    for filler in (0.0, 1e3):
        parts = {name: part.to(device) for name, part in operands(2, 50, 9, 8).items()}
        for name in ("u", "delta", "B", "C", "z"):
            parts[name][1, 20:] = filler
        lengths = torch.tensor([50, 20], device=device)
        results.append(outcomes(backend, parts, torch.float32, reverse=BOTH, lengths=lengths))
    names = ["out", *operands(1, 1, 1, 1)]
    for name, first, second in zip(names, *results, strict=True):
        if backend.name != "mamba_ssm" or name not in ("B", "C"):  # whose gradients its kernel adds up by atomics
            assert torch.equal(first, second), name


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (5, 2), (63, 4), (64, 4), (65, 4), (1000, 4), (40, 7)])
def test_convolution_agrees(backend: Backend, device: str, length: int, taps: int) -> None:
    for lengths in (None, torch.tensor([length, 1, max(1, length // 2)])):
        if lengths is not None and length < taps:
            continue  # torch's own convolution, the reference, refuses what is shorter than the filter
        counts = None if lengths is None else lengths.to(device)
        reference = convolution_outcomes(REFERENCE, length, 11, taps, lengths, torch.float64)
        result = convolution_outcomes(backend, length, 11, taps, counts, torch.float32, device)
        assert worst(reference, [part.cpu() for part in result]) < CLOSE


def test_bfloat16_is_computed_in_float32(backend: Backend, device: str) -> None:
    """Outputs are those of float32, rounded; the operands that are fixed over time keep float32 gradients."""
    parts = {name: part.to(device, torch.bfloat16).float() for name, part in operands(2, 200, 76, 8).items()}
    single = outcomes(backend, parts, torch.float32, reverse=BOTH)
    fixed = ("A", "D", "delta_bias")
    leaves = {name: (part if name in fixed else part.bfloat16()).requires_grad_() for name, part in parts.items()}
    out = selective_scan(**leaves, reverse=BOTH, backend=backend)  # type: ignore[arg-type]
    assert out.dtype == torch.bfloat16
    assert worst([single[0]], [out.detach().float()]) < 2**-7
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = torch.autograd.grad((out.float() * weight.to(device).float()).sum(), list(leaves.values()))
    assert [part.dtype for part in gradients] == [part.dtype for part in leaves.values()]
    assert worst(single[1:], [part.float() for part in gradients]) < 2e-2
    filtered = short_convolution(
        leaves["u"], torch.ones(2, 76, 4, device=device), torch.ones(2, 76, device=device), backend=backend,
        reverse=BOTH,
    )  # fmt: skip
    assert filtered.dtype == torch.bfloat16


def test_results_do_not_change_from_run_to_run(backend: Backend, device: str) -> None:
    if backend.name == "mamba_ssm":
        pytest.skip("its kernel adds gradients up by atomics")
    first, second = (found(backend, device, 1000, None, 76) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def small_model(device: str, scan: Wanted = "auto", **options: object) -> SnapshotModel:
    return WiMambaSpec(size="tiny", patches=(4,), scan=scan, **options).build(0).to(device)  # type: ignore[arg-type]


def channels_of(count: int, subcarriers: int, antennas: int, device: str) -> Tensor:
    return torch.from_numpy(random_channels(count, subcarriers, antennas)[:, 0]).to(device)


@torch.no_grad()
def test_every_backend_encodes_alike(backend: Backend, device: str) -> None:
    channels = channels_of(3, 64, 32, device)
    reference = small_model(device, "torch").eval().encode_channels(channels, 4)
    result = small_model(device, backend.name).eval().encode_channels(channels, 4)  # type: ignore[arg-type]
    assert torch.allclose(result, reference, atol=1e-3 if device == "cuda" else 1e-4)


@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_encode_from_a_graph_equals_encode(device: str, half: bool) -> None:
    model = small_model(device).eval()
    if half:
        cast_parameters(model, torch.bfloat16)
    graphed = GraphedEncode(model, most=2)
    shapes = [(2, 32, 16), (1, 18, 10), (2, 32, 16), (3, 64, 32), (1, 18, 10)]
    for seed, shape in enumerate(shapes):
        channels = channels_of(*shape, device) * (1 + seed)
        vectors = graphed(channels, 4)
        assert vectors.dtype == (torch.bfloat16 if half else torch.float32)
        assert torch.equal(vectors, model.encode_channels(channels, 4))
    first, second = (graphed(channels_of(2, 32, 16, device) * factor, 4) for factor in (1, 2))
    assert not torch.equal(first, second)


@torch.no_grad()
def test_a_graph_sees_new_values_of_the_parameters(device: str) -> None:
    model = small_model(device).eval()
    graphed, channels = GraphedEncode(model), channels_of(2, 32, 16, device)
    before = graphed(channels, 4)
    for parameter in model.parameters():
        parameter.mul_(0.9)
    assert not torch.equal(graphed(channels, 4), before)
    assert torch.equal(graphed(channels, 4), model.encode_channels(channels, 4))


@pytest.mark.parametrize("scan", ["auto", "torch"])
def test_training_in_mixed_precision_follows_float32(device: str, scan: Wanted) -> None:
    """Under autocast the loss and the gradients of the scan's parameters, which are float32, are close to float32's."""
    channels = random_channels(3, 32, 16)
    model = small_model(device, scan, dropout=0.0)
    parts = model.spec.tokenise(channels, 4)
    batch = collate([parts], np.arange(3), np.ones(3, np.float32), 4).to(device)
    results = []
    for mixed in (False, True):
        copied = copy.deepcopy(model)
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = copied(batch, MaskDraw(seed=0, epoch=0)).sum()
        loss.backward()
        results.append((loss.detach(), dict(copied.named_parameters())))
    (single, exact), (half, rounded) = results
    assert half.item() == pytest.approx(single.item(), rel=0.02)
    for name in (name for name in exact if name.endswith(("log_decay", "skip", "step_bias"))):
        assert rounded[name].grad.dtype == torch.float32
        cosine = torch.cosine_similarity(exact[name].grad.flatten(), rounded[name].grad.flatten(), dim=0)
        assert cosine > 0.98, name
