"""Arithmetic of the Triton kernels on the CPU. ``test_triton.py`` runs this in a process that interprets Triton."""

import pytest
import torch

from models.scan import triton_scan as scan_module
from models.scan.operations import selective_scan, short_convolution
from models.scan.triton_backend import TRITON
from models.snapshot import mamba_layers
from tests.models.scan.references import (
    ALONE,
    BOTH,
    REFERENCE,
    convolution_outcomes,
    operands,
    operands_without,
    outcomes,
    sequences_of,
    worst,
)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of few steps each, carried two at a time, since the interpreter is slow."""
    monkeypatch.setattr(scan_module, "CHUNK", 4)
    monkeypatch.setattr(scan_module, "ROWS", 2)


@pytest.mark.parametrize(("length", "reverse"), [(1, BOTH), (16, (False,)), (17, BOTH), (35, (True,))])
def test_scan_agrees_with_the_sequential_reference(length: int, reverse: tuple[bool, ...]) -> None:
    parts = operands(1, length, channels=3, states=2, groups=len(reverse))
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=reverse)
    assert worst(expected, outcomes(TRITON, parts, torch.float32, reverse=reverse)) < 1e-5


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(("channels", "states"), [(1, 1), (19, 5), (5, 16)])
def test_scan_agrees_for_any_number_of_channels_and_states(channels: int, states: int) -> None:
    parts = operands(1, 5, channels, states)
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=BOTH)
    assert worst(expected, outcomes(TRITON, parts, torch.float32, reverse=BOTH)) < 1e-5


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("lengths", [[9, 4], [5, 0]])
def test_scan_agrees_for_padded_batches(lengths: list[int]) -> None:
    parts = operands(2, 9, channels=3, states=2)
    options = {"reverse": BOTH, "lengths": torch.tensor(lengths)}
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    found = outcomes(TRITON, parts, torch.float32, **options)
    assert worst(expected, found) < 1e-5
    assert all(not found[0][sample, count:].any() for sample, count in enumerate(lengths))


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("lengths", [(1, 4, 9), (2, 2, 3), (5,)])
def test_packed_sequences_are_scanned_as_if_alone(lengths: tuple[int, ...]) -> None:
    parts = operands(1, sum(lengths), channels=3, states=2)
    options = {"reverse": BOTH, "lengths": sequences_of(*lengths)}
    expected = outcomes(ALONE, parts, torch.float64, **options)
    assert worst(expected, outcomes(TRITON, parts, torch.float32, **options)) < 1e-5


@pytest.mark.parametrize("lengths", [(1, 3, 33), (2, 5)])
def test_the_convolution_does_not_look_into_another_packed_sequence(lengths: tuple[int, ...]) -> None:
    sequences = sequences_of(*lengths)
    expected = convolution_outcomes(ALONE, sequences.rows, 3, 4, sequences, torch.float64)
    assert worst(expected, convolution_outcomes(TRITON, sequences.rows, 3, 4, sequences, torch.float32)) < 1e-5


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("left_out", ["z", "delta_bias", "softplus"])
def test_scan_agrees_without_optional_operands(left_out: str) -> None:
    parts, options = operands_without(left_out, 1, 5, channels=3, states=2)
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    assert worst(expected, outcomes(TRITON, parts, torch.float32, **options)) < 1e-5


@pytest.mark.parametrize("raw", [-80.0, -15.0, 80.0])
def test_extreme_step_sizes(raw: float) -> None:
    parts = operands(1, 3, channels=2, states=2)
    parts["delta"] = torch.full_like(parts["delta"], raw)
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=BOTH)
    found = outcomes(TRITON, parts, torch.float32, reverse=BOTH)
    assert all(torch.isfinite(part).all() for part in found)
    assert worst(expected[:1], found[:1]) < 1e-5


@pytest.mark.usefixtures("short_chunks")
def test_half_precision_is_computed_in_single_from_strided_series() -> None:
    """Only what is written is rounded; the interpreter cuts it to bfloat16."""
    parts = {name: part.to(torch.bfloat16) for name, part in operands(1, 6, channels=3, states=2).items()}
    single = outcomes(TRITON, parts, torch.float32, reverse=BOTH)
    for name in ("A", "D", "delta_bias"):
        parts[name] = parts[name].float()
    for name in ("u", "delta", "B", "C", "z"):
        parts[name] = parts[name].permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    leaves = {name: part.requires_grad_() for name, part in parts.items()}
    out = selective_scan(**leaves, reverse=BOTH, backend=TRITON)  # type: ignore[arg-type]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = torch.autograd.grad((out.float() * weight.float()).sum(), list(leaves.values()))
    assert [part.dtype for part in gradients] == [part.dtype for part in leaves.values()]
    assert worst(single, [out.detach().float(), *(part.float() for part in gradients)]) < 2**-7


@pytest.mark.parametrize(("length", "lengths"), [(1, None), (5, [5, 2, 1]), (33, [2, 33, 1])])
def test_convolution_agrees(length: int, lengths: list[int] | None) -> None:
    counts = None if lengths is None else torch.tensor(lengths)
    expected = convolution_outcomes(REFERENCE, length, 3, 4, counts, torch.float64)
    assert worst(expected, convolution_outcomes(TRITON, length, 3, 4, counts, torch.float32)) < 1e-5


@pytest.mark.parametrize(("channels", "taps"), [(1, 1), (33, 2)])
def test_convolution_agrees_for_any_number_of_channels_and_taps(channels: int, taps: int) -> None:
    expected = convolution_outcomes(REFERENCE, 9, channels, taps, None, torch.float64)
    assert worst(expected, convolution_outcomes(TRITON, 9, channels, taps, None, torch.float32)) < 1e-5


def test_convolution_of_half_precision_is_computed_in_single() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 9, 2, 3, generator=generator).to(torch.bfloat16)
    weight, bias = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, generator=generator)
    found = short_convolution(x, weight, bias, reverse=BOTH, backend=TRITON)
    single = short_convolution(x.float(), weight, bias, reverse=BOTH, backend=TRITON)
    assert found.dtype == torch.bfloat16
    assert worst([single], [found.float()]) < 2**-7


@pytest.mark.usefixtures("short_chunks")
def test_a_compiled_layer_traces_through_both_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without a break; outputs and gradients are those of the plain layer."""
    monkeypatch.setattr(mamba_layers, "compiler_knows", lambda device, wanted: True)
    monkeypatch.setattr(mamba_layers, "choose_backend", lambda device, wanted, packed: TRITON)
    layer = mamba_layers.BidirectionalMamba(mamba_layers.MambaSize(width=6, state=2, conv=4, scan="triton"))
    tokens = torch.randn(2, 6, 2, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)):
        out = call(tokens, torch.tensor([6, 3]))
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    assert worst(*results) < 1e-6
