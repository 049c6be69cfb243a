"""Every backend of the selective scan against a sequential reference in float64."""

import ctypes
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from channels.errors import UserError
from models.scan import backends, build, mamba_kernel, native
from models.scan.backends import Backend, choose_backend
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import ScanProblem
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


REFERENCE = Backend("sequential", "", sequential_scan, reference_convolution)
TORCH = Backend("torch", "", chunked_scan, shifted_convolution)


@pytest.fixture(scope="module")
def compiled() -> Backend:
    try:
        native.load_library()
    except build.CannotBuildError as error:
        pytest.skip(f"no native scan here: {error}")
    return choose_backend("cpu", "native")


@pytest.fixture(params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return TORCH if request.param == "torch" else request.getfixturevalue("compiled")


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


def outcomes(backend: Backend, parts: dict[str, Tensor], dtype: torch.dtype, **options: object) -> list[Tensor]:
    """The output and the gradients of all operands, for one fixed random gradient of the output."""
    leaves = {name: part.to(dtype).requires_grad_() for name, part in parts.items()}
    out = selective_scan(**leaves, backend=backend, **options)  # type: ignore[arg-type]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), list(leaves.values()))]


def worst(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest error of any of the tensors, relative to that tensor's largest value."""
    pairs = zip(expected, found, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


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


@pytest.mark.parametrize("reverse", [(False,), (True,), (False, False, True)])
def test_agrees_for_any_directions(backend: Backend, reverse: tuple[bool, ...]) -> None:
    parts = operands(2, 50, channels=4, states=8, groups=len(reverse))
    expected = outcomes(REFERENCE, parts, torch.float64, reverse=reverse)
    assert worst(expected, outcomes(backend, parts, torch.float32, reverse=reverse)) < 1e-5


@pytest.mark.parametrize("left_out", ["z", "delta_bias", "softplus"])
def test_agrees_without_optional_operands(backend: Backend, left_out: str) -> None:
    parts = operands(2, 40, channels=4, states=8)
    options: dict[str, object] = {"reverse": BOTH}
    if left_out == "softplus":
        parts["delta"], parts["delta_bias"] = parts["delta"].exp(), parts["delta_bias"].abs()
        options["softplus"] = False
    else:
        del parts[left_out]
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
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 40, 2, 11), (2, 11, taps), (2, 11))
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    counts = None if lengths is None else torch.tensor(lengths)
    results = []
    for chosen, dtype in ((REFERENCE, torch.float64), (backend, torch.float32)):
        leaves = [part.to(dtype).requires_grad_() for part in parts]
        out = short_convolution(*leaves, reverse=BOTH, lengths=counts, backend=chosen)
        results.append([out.detach(), *torch.autograd.grad((out * out.cos()).sum(), leaves)])
    assert worst(*results) < 1e-5


def kernel_of_mamba_ssm(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """What the CUDA kernel computes: u, delta [B, D, L], A [D, N], B, C [B, G, N, L], D [D]."""
    assert u.is_contiguous()
    assert B.is_contiguous()
    groups = B.shape[1]
    problem = ScanProblem(
        u=u.unflatten(1, (groups, -1)).permute(0, 3, 1, 2),
        delta=delta.unflatten(1, (groups, -1)).permute(0, 3, 1, 2),
        A=A.unflatten(0, (groups, -1)),
        B=B.permute(0, 3, 1, 2),
        C=C.permute(0, 3, 1, 2),
        D=D.unflatten(0, (groups, -1)),
        z=None,
        delta_bias=delta_bias.unflatten(0, (groups, -1)),
        softplus=delta_softplus,
        reverse=(False,) * groups,
        lengths=None,
    )
    return sequential_scan(problem).permute(0, 2, 3, 1).flatten(1, 2)


def test_cuda_kernel_is_given_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = kernel_of_mamba_ssm  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    parts = operands(3, 60, channels=5, states=4)
    kernel = Backend("mamba_ssm", "", mamba_kernel.kernel_scan, shifted_convolution)
    options = {"reverse": BOTH, "lengths": torch.tensor([60, 1, 23])}
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    assert worst(expected, outcomes(kernel, parts, torch.float64, **options)) < 1e-12


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.util.find_spec

    def find(name: str) -> object:
        if name in ("mamba_ssm", "selective_scan_cuda"):
            return SimpleNamespace() if name in names else None
        return real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_mamba_ssm_without_its_kernel_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "mamba_ssm")
    with pytest.raises(UserError, match="without its compiled extension") as caught:
        choose_backend.__wrapped__("cuda", "mamba_ssm")
    assert "\n" not in str(caught.value)
    assert choose_backend.__wrapped__("cuda", "auto").name == "torch"


def test_mamba_ssm_with_its_kernel_is_chosen_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "mamba_ssm", "selective_scan_cuda")
    for name in ("mamba_ssm", "mamba_ssm.ops", mamba_kernel.EXTENSION, mamba_kernel.INTERFACE):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert choose_backend.__wrapped__("cuda", "auto").name == "mamba_ssm"
    with pytest.raises(UserError, match="runs on CUDA"):
        choose_backend.__wrapped__("cpu", "mamba_ssm")
    with pytest.raises(UserError, match="runs on the CPU"):
        choose_backend.__wrapped__("cuda", "native")


def test_a_kernel_that_does_not_load_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "mamba_ssm", "selective_scan_cuda")
    monkeypatch.setitem(sys.modules, mamba_kernel.EXTENSION, None)
    with pytest.raises(UserError, match="selective_scan_cuda is installed but does not load") as caught:
        choose_backend.__wrapped__("cuda", "mamba_ssm")
    assert "\n" not in str(caught.value)
    assert "does not load" in choose_backend.__wrapped__("cuda", "auto").note


def test_no_compiler_means_the_fallback_and_one_logged_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(backends, "load_library", native.load_library.__wrapped__)
    with caplog.at_level("INFO", logger=backends.__name__):
        assert choose_backend.__wrapped__("cpu", "auto").name == "torch"
    assert [record.message for record in caplog.records] == [
        "selective scan on cpu: torch, chunked and slow, since no C compiler (cc, gcc or clang) on this machine"
    ]
    with pytest.raises(UserError, match="no C compiler"):
        choose_backend.__wrapped__("cpu", "native")


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cc: internal error: out of luck\nsecond line' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("WAVETRAIN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(build.CannotBuildError, match=r"out of luck$"):
        build.native_library()


def test_builds_that_start_together_leave_one_library(
    compiled: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WAVETRAIN_CACHE", str(tmp_path))
    together = Barrier(2)
    compile_alone = build._compile

    def compile_together(compiler: str, library: Path) -> None:
        together.wait(timeout=60)
        compile_alone(compiler, library)

    monkeypatch.setattr(build, "_compile", compile_together)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(build.native_library) for _ in range(2))
        assert first.result() == second.result()
    assert list(tmp_path.iterdir()) == [first.result()]
    assert ctypes.CDLL(str(first.result())).scan_forward
