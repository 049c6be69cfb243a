"""Operands, references in float64 and errors, for the tests of every backend of the selective scan."""

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from models.layers.packing import Sequences
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend, Extents, ScanProblem
from tests.models.scan.sequential import sequential_scan

BOTH = (False, True)


def reference_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Tensor | None
) -> Tensor:
    """torch's convolution, sample by sample, on sequences turned round for reversed groups."""
    counts = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
    samples = []
    for sample, count in zip(x, counts, strict=True):
        groups = []
        for group, backward in enumerate(reverse):
            series = sample[:count, group].T[None]
            series = series.flip(2) if backward else series
            taps = weight[group][:, None]
            out = functional.conv1d(
                functional.pad(series, (taps.shape[-1] - 1, 0)), taps, bias[group], groups=len(taps)
            )
            groups.append(functional.silu(out.flip(2) if backward else out)[0].T)
        samples.append(functional.pad(torch.stack(groups, dim=1), (0, 0, 0, 0, 0, x.shape[1] - count)))
    return torch.stack(samples)


TORCH = Backend("torch", "", chunked_scan, shifted_convolution)
REFERENCE = Backend("sequential", "", sequential_scan, reference_convolution)


def sequences_of(*lengths: int) -> Sequences:
    """Of these lengths, in ascending order."""
    return Sequences.of(torch.tensor(lengths), Counter(lengths))


def _cut(sequences: Extents, series: Tensor) -> list[Tensor]:
    assert isinstance(sequences, Sequences)
    return list(torch.split(series, sequences.offsets.diff().tolist(), dim=1))


def _scan_alone(problem: ScanProblem) -> Tensor:
    names = [name for name in ("u", "delta", "B", "C", "z") if getattr(problem, name) is not None]
    cut = zip(*(_cut(problem.lengths, getattr(problem, name)) for name in names), strict=True)
    singles = [replace(problem, **dict(zip(names, parts, strict=True)), lengths=None) for parts in cut]
    return torch.cat([sequential_scan(single) for single in singles], dim=1)


def _convolve_alone(x: Tensor, weight: Tensor, bias: Tensor, reverse: tuple[bool, ...], lengths: Extents) -> Tensor:
    singles = [reference_convolution(part, weight, bias, reverse, None) for part in _cut(lengths, x)]
    return torch.cat(singles, dim=1)


ALONE = Backend("sequential", "", _scan_alone, _convolve_alone)
"""Packed sequences, each in a call of its own."""


def operands(batch: int, length: int, channels: int, states: int, groups: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random operands in float64: step sizes around 0.1, decays between those of slow and of fast states."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "u": draw(batch, length, groups, channels),
        "delta": draw(batch, length, groups, channels) - 2,
        "A": -torch.rand(groups, channels, states, generator=generator, dtype=torch.float64) * states - 0.1,
        "B": draw(batch, length, groups, states),
        "C": draw(batch, length, groups, states),
        "D": draw(groups, channels),
        "z": draw(batch, length, groups, channels),
        "delta_bias": draw(groups, channels),
    }


def operands_without(
    left_out: str, batch: int, length: int, channels: int, states: int
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Operands without z, delta_bias or softplus, and the options of a call in both directions."""
    parts, options = operands(batch, length, channels, states), {"reverse": BOTH}
    if left_out == "softplus":
        parts["delta"], parts["delta_bias"] = parts["delta"].exp(), parts["delta_bias"].abs()
        return parts, options | {"softplus": False}
    del parts[left_out]
    return parts, options


def outcomes(backend: Backend, parts: dict[str, Tensor], dtype: torch.dtype, **options: object) -> list[Tensor]:
    """The output and the gradients of all operands, for one fixed random gradient of the output."""
    leaves = {name: part.to(dtype).requires_grad_() for name, part in parts.items()}
    out = selective_scan(**leaves, backend=backend, **options)  # type: ignore[arg-type]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out * weight.to(out)).sum(), list(leaves.values()))]


def worst(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest error of any of the tensors, relative to that tensor's largest value."""
    pairs = zip(expected, found, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


def convolution_outcomes(
    backend: Backend, length: int, channels: int, taps: int, lengths: Extents, dtype: torch.dtype,
    device: str = "cpu",
) -> list[Tensor]:  # fmt: skip
    """Output of the short convolution and gradients of its operands, of three samples or of packed sequences."""
    generator = torch.Generator().manual_seed(0)
    batch = 1 if isinstance(lengths, Sequences) else 3
    shapes = ((batch, length, 2, channels), (2, channels, taps), (2, channels))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    leaves = [part.to(device, dtype).requires_grad_() for part in drawn]
    counts = lengths.to(device) if isinstance(lengths, Tensor) else lengths
    out = short_convolution(*leaves, reverse=BOTH, lengths=counts, backend=backend)
    return [out.detach(), *torch.autograd.grad((out * out.cos()).sum(), leaves)]
