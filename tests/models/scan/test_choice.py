"""Kernels of installed packages and of our own build: which is chosen, what it is given, what a missing one says."""

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional

from channels.errors import UserError
from models.scan import backends, build, mamba_kernel, native
from models.scan.backends import choose_backend
from models.scan.kernel_package import CONVOLUTION, MODULES, OPERATIONS, SCAN, load_fault
from models.scan.operations import selective_scan, short_convolution
from models.scan.problem import Backend, ScanProblem
from tests.models.scan.references import (
    BOTH,
    REFERENCE,
    TORCH,
    convolution_outcomes,
    operands,
    outcomes,
    worst,
)
from tests.models.scan.sequential import sequential_scan


class ScanExtension(ModuleType):
    """selective_scan_cuda by its signatures: u, delta, z [B, D, L], A [D, N], B, C [B, G, N, L], D, bias [D]."""

    def fwd(self, u, delta, A, B, C, D, z, bias, softplus):
        for part in (u, delta, B, C, z):
            assert part is None or part.is_contiguous()
        assert u.dtype == delta.dtype == B.dtype == C.dtype and A.dtype == D.dtype == bias.dtype == torch.float32
        out = self.compute(u, delta, A, B, C, D, None, bias, softplus)
        states = torch.zeros(*u.shape[:2], 1, 2 * A.shape[1])
        return (out, states) if z is None else (out, states, out * functional.silu(z))

    def bwd(self, u, delta, A, B, C, D, z, bias, d_out, states, out, d_z, softplus, again):
        assert d_out.is_contiguous() and d_z is None and not again and (out is None) == (z is None)
        leaves = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "bias": bias} | (
            {} if z is None else {"z": z}
        )
        leaves = {name: part.detach().requires_grad_() for name, part in leaves.items()}
        with torch.enable_grad():
            result = self.compute(**({"z": None} | leaves), softplus=softplus)
        return torch.autograd.grad(result, list(leaves.values()), d_out)

    def compute(self, u, delta, A, B, C, D, z, bias, softplus):
        groups = B.shape[1]

        def time_second(series):
            return series.float().unflatten(1, (groups, -1)).permute(0, 3, 1, 2)

        problem = ScanProblem(
            u=time_second(u), delta=time_second(delta), A=A.unflatten(0, (groups, -1)), B=B.float().permute(0, 3, 1, 2),
            C=C.float().permute(0, 3, 1, 2), D=D.unflatten(0, (groups, -1)), z=None if z is None else time_second(z),
            delta_bias=bias.unflatten(0, (groups, -1)), softplus=softplus, reverse=(False,) * groups, lengths=None,
        )  # fmt: skip
        return sequential_scan(problem).permute(0, 2, 3, 1).flatten(1, 2).to(u.dtype)


class ConvolutionExtension(ModuleType):
    """causal_conv1d_cuda by its signatures: x [B, D, L], weight [D, taps], bias [D]; results are written in place."""

    def causal_conv1d_fwd(self, x, weight, bias, sequences, first, out, last, silu):
        assert silu and x.is_contiguous() and weight.is_contiguous() and weight.dtype == bias.dtype == torch.float32
        assert sequences is None and first is None and last is None
        out.copy_(self.compute(x, weight, bias))

    def causal_conv1d_bwd(self, x, weight, bias, d_out, sequences, first, d_last, d_x, d_weight, d_bias, d_first, silu):
        assert silu and d_out.is_contiguous() and not d_weight.any() and not d_bias.any()
        leaves = [part.detach().requires_grad_() for part in (x, weight, bias)]
        with torch.enable_grad():
            out = self.compute(*leaves)
        for place, gradient in zip((d_x, d_weight, d_bias), torch.autograd.grad(out, leaves, d_out), strict=True):
            place.copy_(gradient)

    def compute(self, x, weight, bias):
        padded = functional.pad(x.float(), (weight.shape[1] - 1, 0))
        return functional.silu(functional.conv1d(padded, weight[:, None], bias, groups=len(weight))).to(x.dtype)


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """mamba-ssm's backend on stand-ins for both compiled modules; their Python packages are not there."""
    load_fault.cache_clear()
    pretend_installed(monkeypatch, SCAN, CONVOLUTION)
    monkeypatch.setitem(sys.modules, SCAN, ScanExtension(SCAN))
    monkeypatch.setitem(sys.modules, CONVOLUTION, ConvolutionExtension(CONVOLUTION))
    yield Backend("mamba_ssm", "", mamba_kernel.kernel_scan, mamba_kernel.kernel_convolution, half=True)
    load_fault.cache_clear()


@pytest.mark.parametrize("left_out", [None, "z"])
@pytest.mark.parametrize("lengths", [None, [60, 1, 23]])
def test_the_compiled_scan_is_given_its_layout(
    extensions: Backend, left_out: str | None, lengths: list[int] | None
) -> None:
    parts = operands(3, 60, channels=5, states=4)
    parts.pop(str(left_out), None)
    options = {"reverse": BOTH, "lengths": None if lengths is None else torch.tensor(lengths)}
    expected = outcomes(REFERENCE, parts, torch.float64, **options)
    assert worst(expected, outcomes(extensions, parts, torch.float32, **options)) < 1e-5


@pytest.mark.parametrize("taps", [2, 4, 5])
@pytest.mark.parametrize("lengths", [None, [2, 40, 17]])
def test_the_compiled_convolution_is_given_its_layout(
    extensions: Backend, taps: int, lengths: list[int] | None
) -> None:
    counts = None if lengths is None else torch.tensor(lengths)
    expected = convolution_outcomes(REFERENCE, 40, 5, taps, counts, torch.float64)
    assert worst(expected, convolution_outcomes(extensions, 40, 5, taps, counts, torch.float32)) < 1e-5


def test_the_compiled_operations_take_half_precision_as_it_is(extensions: Backend) -> None:
    parts = {name: part.to(torch.bfloat16) for name, part in operands(1, 20, channels=4, states=3).items()}
    assert selective_scan(**parts, reverse=BOTH, backend=extensions).dtype == torch.bfloat16  # type: ignore[arg-type]
    taps = torch.ones(2, 4, 4)
    assert short_convolution(parts["u"], taps, taps[..., 0], reverse=BOTH, backend=extensions).dtype == torch.bfloat16


def test_the_scan_runs_without_a_convolution_that_loads(extensions: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CONVOLUTION, None)
    load_fault.cache_clear()
    expected = convolution_outcomes(TORCH, 20, 5, 4, None, torch.float32)
    assert worst(expected, convolution_outcomes(extensions, 20, 5, 4, None, torch.float32)) == 0


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.util.find_spec

    def find(name: str) -> object:
        if name in (*OPERATIONS, *MODULES.values()):
            return SimpleNamespace() if name in names else None
        return real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setitem(sys.modules, "models.scan.triton_backend", None)
    load_fault.cache_clear()


def test_mamba_ssm_without_its_kernel_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "mamba_ssm")
    with pytest.raises(UserError, match="without its compiled extension") as caught:
        choose_backend.__wrapped__("cuda", "mamba_ssm")
    assert "\n" not in str(caught.value)
    chosen = choose_backend.__wrapped__("cuda", "auto")
    assert chosen.name == "torch" and "triton does not load" in chosen.note and "mamba-ssm is installed" in chosen.note


def test_mamba_ssm_with_its_kernel_is_chosen_on_cuda_only(extensions: Backend) -> None:
    assert choose_backend.__wrapped__("cuda", "auto").name == "mamba_ssm"
    with pytest.raises(UserError, match="mamba_ssm has no sequence boundaries") as caught:
        choose_backend.__wrapped__("cuda", "mamba_ssm", True)
    assert "\n" not in str(caught.value)
    packed = choose_backend.__wrapped__("cuda", "auto", True)
    assert packed.name == "torch" and "no sequence boundaries" in packed.note
    with pytest.raises(UserError, match="runs on CUDA"):
        choose_backend.__wrapped__("cpu", "mamba_ssm")
    with pytest.raises(UserError, match="runs on CUDA"):
        choose_backend.__wrapped__("cpu", "triton")
    with pytest.raises(UserError, match="runs on the CPU"):
        choose_backend.__wrapped__("cuda", "native")
    with pytest.raises(UserError, match="triton does not load"):
        choose_backend.__wrapped__("cuda", "triton")


def test_a_kernel_that_does_not_load_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "mamba_ssm", SCAN)
    monkeypatch.setitem(sys.modules, SCAN, None)
    with pytest.raises(UserError, match="selective_scan_cuda is installed but does not load") as caught:
        choose_backend.__wrapped__("cuda", "mamba_ssm")
    assert "\n" not in str(caught.value)
    assert "does not load" in choose_backend.__wrapped__("cuda", "auto").note
    load_fault.cache_clear()


def test_a_kernel_that_loads_and_does_not_run_is_passed_over(
    extensions: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_fault_on_device", lambda backend: f"{backend.name} does not run")
    assert choose_backend.__wrapped__("cuda", "auto").name == "torch"
    with pytest.raises(UserError, match="mamba_ssm does not run"):
        choose_backend.__wrapped__("cuda", "mamba_ssm")


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
