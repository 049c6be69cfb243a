"""Every backend of the selective scan against a sequential reference in float64."""

from functools import cache

import pytest
import torch
from torch import Tensor

from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend
from tests.models.scan.references import (
    ALONE,
    BOTH,
    REFERENCE,
    TORCH,
    convolution_outcomes,
    operands,
    operands_without,
    outcomes,
    sequences_of,
    worst,
)


@pytest.fixture(params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return TORCH if request.param == "torch" else request.getfixturevalue("compiled")


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 64, 65, 257, 1000, 4097])
def test_agrees_with_the_sequential_reference(backend: Backend, length: int) -> None:
    parts = operands(1, length, channels=9, states=8)
    found = outcomes(backend, parts, torch.float32, reverse=BOTH)
    assert worst(expected_outcomes(length), found) < 1e-5


@cache
def expected_outcomes(length: int) -> list[Tensor]:
    return outcomes(REFERENCE, operands(1, length, channels=9, states=8), torch.float64, reverse=BOTH)


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (5, 3), (8, 16), (19, 16), (76, 8)])
def test_agrees_for_any_number_of_channels_and_states(backend: Backend, channels: int, states: int) -> None:
    parts = operands(1, 70, channels, states)
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=BOTH)
    assert worst(expected, outcomes(backend, parts, torch.float32, reverse=BOTH)) < 1e-5


@pytest.mark.parametrize("lengths", [[1, 129, 200], [200, 64, 33], [5, 5, 0]])
def test_agrees_for_padded_batches(backend: Backend, lengths: list[int]) -> None:
    parts = operands(3, 200, channels=6, states=8)
    options = {"reverse": BOTH, "lengths": torch.tensor(lengths)}
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    found = outcomes(backend, parts, torch.float32, **options)
    assert worst(expected, found) < 1e-5
    assert all(not found[0][sample, count:].any() for sample, count in enumerate(lengths))


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 2, 3, 31, 32, 33, 64, 97), (5, 5, 5, 200), (64, 64)])
def test_packed_sequences_are_scanned_as_if_alone(backend: Backend, lengths: tuple[int, ...]) -> None:
    parts = operands(1, sum(lengths), channels=9, states=8)
    options = {"reverse": BOTH, "lengths": sequences_of(*lengths)}
    expected = outcomes(ALONE, parts, torch.float64, **options)
    assert worst(expected, outcomes(backend, parts, torch.float32, **options)) < 1e-5


@pytest.mark.parametrize("left_out", ["z", "delta_bias", "softplus"])
def test_packed_sequences_without_optional_operands(backend: Backend, left_out: str) -> None:
    parts, options = operands_without(left_out, 1, 40, channels=4, states=3)
    options["lengths"] = sequences_of(3, 4, 33)
    expected = outcomes(ALONE, parts, torch.float64, **options)
    assert worst(expected, outcomes(backend, parts, torch.float32, **options)) < 1e-5


def test_nothing_of_a_packed_sequence_reaches_another(backend: Backend) -> None:
    """Not even what is not finite: a state that is multiplied by zero would carry it on."""
    parts = {name: part.float() for name, part in operands(1, 12, channels=3, states=4).items()}
    options = {"reverse": BOTH, "lengths": sequences_of(3, 4, 5), "backend": backend}
    before = selective_scan(**parts, **options)  # type: ignore[arg-type]
    parts["u"][0, 4] = 1e30
    after = selective_scan(**parts, **options)  # type: ignore[arg-type]
    others = torch.tensor([0, 1, 2, 7, 8, 9, 10, 11])
    assert torch.equal(after[:, others], before[:, others])
    assert not torch.equal(after, before)


def test_native_packs_with_the_bits_of_single_sequences(compiled: Backend) -> None:
    lengths = (1, 31, 32, 70)
    parts = {name: part.float() for name, part in operands(1, sum(lengths), channels=20, states=8).items()}
    together = outcomes(compiled, parts, torch.float32, reverse=BOTH, lengths=sequences_of(*lengths))[0]
    first = 0
    for length in lengths:
        rows = slice(first, first + length)
        alone = {name: part[:, rows] if part.dim() == 4 else part for name, part in parts.items()}
        assert torch.equal(together[:, rows], selective_scan(**alone, reverse=BOTH, backend=compiled))  # type: ignore[arg-type]
        first += length


@pytest.mark.parametrize("reverse", [(False,), (True,), (False, False, True)])
def test_agrees_for_any_directions(backend: Backend, reverse: tuple[bool, ...]) -> None:
    parts = operands(2, 50, channels=4, states=8, groups=len(reverse))
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=reverse)
    assert worst(expected, outcomes(backend, parts, torch.float32, reverse=reverse)) < 1e-5


@pytest.mark.parametrize("left_out", ["z", "delta_bias", "softplus"])
def test_agrees_without_optional_operands(backend: Backend, left_out: str) -> None:
    parts, options = operands_without(left_out, 2, 40, channels=4, states=8)
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    assert worst(expected, outcomes(backend, parts, torch.float32, **options)) < 1e-5


@pytest.mark.parametrize("raw", [-80.0, -15.0, 0.0, 15.0, 80.0])
def test_extreme_step_sizes(backend: Backend, raw: float) -> None:
    parts = operands(1, 20, channels=3, states=4)
    parts["delta"] = torch.full_like(parts["delta"], raw)
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=BOTH)
    found = outcomes(backend, parts, torch.float32, reverse=BOTH)
    assert all(torch.isfinite(part).all() for part in found)
    assert worst(expected[:1], found[:1]) < 1e-5


def test_float64_is_exact_on_the_fallback() -> None:
    parts = operands(2, 100, channels=3, states=4)
    options = {"reverse": BOTH, "lengths": torch.tensor([100, 37])}
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    assert worst(expected, outcomes(TORCH, parts, torch.float64, **options)) < 1e-12


def test_native_leaves_float64_to_the_fallback(compiled: Backend) -> None:
    parts = operands(2, 40, channels=3, states=4)
    options = {"reverse": BOTH, "lengths": torch.tensor([40, 7])}
    expected = outcomes(TORCH, parts, torch.float64, **options)
    assert worst(expected, outcomes(compiled, parts, torch.float64, **options)) == 0
    x, weight, bias = parts["u"], torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    found = short_convolution(x, weight, bias, reverse=BOTH, backend=compiled)
    assert torch.equal(found, short_convolution(x, weight, bias, reverse=BOTH, backend=TORCH))


def test_half_precision_is_computed_in_single(backend: Backend) -> None:
    parts = {name: part.to(torch.bfloat16) for name, part in operands(1, 64, channels=8, states=8).items()}
    found = selective_scan(**parts, reverse=BOTH, backend=backend)  # type: ignore[arg-type]
    single = selective_scan(**{n: p.float() for n, p in parts.items()}, reverse=BOTH, backend=backend)  # type: ignore[arg-type]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, single.to(torch.bfloat16))


def test_native_takes_strided_operands(compiled: Backend) -> None:
    parts = {name: part.float() for name, part in operands(2, 30, channels=8, states=8).items()}
    strided = dict(parts)
    for name in ("u", "delta", "z", "B", "C"):
        strided[name] = parts[name].permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
        assert not strided[name].is_contiguous()
    expected = selective_scan(**parts, reverse=BOTH, backend=compiled)  # type: ignore[arg-type]
    assert torch.equal(selective_scan(**strided, reverse=BOTH, backend=compiled), expected)  # type: ignore[arg-type]


def test_native_does_not_depend_on_the_number_of_threads(compiled: Backend) -> None:
    parts = operands(3, 150, channels=20, states=8)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            runs.append(outcomes(compiled, parts, torch.float32, reverse=BOTH, lengths=torch.tensor([150, 20, 99])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*runs, strict=True))


def test_native_passes_nan_on(compiled: Backend) -> None:
    parts = {name: part.float() for name, part in operands(1, 10, channels=3, states=8).items()}
    parts["delta"][0, 4, 0, 1] = torch.nan
    out = selective_scan(**parts, reverse=BOTH, backend=compiled)  # type: ignore[arg-type]
    assert out[0, 4:, 0, 1].isnan().all()
    assert out[0, :4].isfinite().all()
    assert out[0, :, 1].isfinite().all()


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("lengths", [None, [2, 40, 17]])
def test_convolution_agrees(backend: Backend, taps: int, lengths: list[int] | None) -> None:
    counts = None if lengths is None else torch.tensor(lengths)
    expected = convolution_outcomes(REFERENCE, 40, 11, taps, counts, torch.float64)
    assert worst(expected, convolution_outcomes(backend, 40, 11, taps, counts, torch.float32)) < 1e-5


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_convolution_does_not_look_into_another_packed_sequence(backend: Backend, taps: int) -> None:
    sequences = sequences_of(1, 2, 3, 3, 31)
    expected = convolution_outcomes(ALONE, 40, 11, taps, sequences, torch.float64)
    assert worst(expected, convolution_outcomes(backend, 40, 11, taps, sequences, torch.float32)) < 1e-5
