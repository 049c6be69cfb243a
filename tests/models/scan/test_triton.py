"""The Triton kernels on a machine without a GPU: their arithmetic, interpreted, and that they compile for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux")


@needs_triton
def test_arithmetic_in_the_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported, and torch may have imported it here."""
    cases = Path(__file__).with_name("triton_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:]


@needs_triton
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["end_states", "carry", "outputs", "start_gradients", "operand_gradients"])
def test_scan_kernels_compile_for_hopper(name: str, packed: bool) -> None:
    from models.scan import scan_kernels

    sizes = {"CHUNK": 4, "GROUP": 2, "STATES": 8, "CHANNELS": 16, "ROWS": 4, "LANES": 32}
    flags = dict.fromkeys(("SOFTPLUS", "BIASED", "GATED", "STARTED", "BACKWARD"), True)
    compile_for_hopper(getattr(scan_kernels, name), sizes | flags | {"PADDED": not packed, "PACKED": packed})


@needs_triton
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["convolve", "convolution_gradients"])
def test_convolution_kernels_compile_for_hopper(name: str, packed: bool) -> None:
    from models.scan import convolution_kernels

    sizes = {"TAPS": 4, "STEPS": 16, "CHANNELS": 16}
    compile_for_hopper(getattr(convolution_kernels, name), sizes | {"PADDED": not packed, "PACKED": packed})


SERIES = ("u", "delta", "z", "B", "C", "x", "out", "d_out", "d_u", "d_delta", "d_z", "d_x")
NUMBERS = ("batch", "length", "chunks", "blocks", "groups", "channels", "states", "reverse")


def compile_for_hopper(kernel, constants: dict[str, object]) -> None:
    """Series in bfloat16, all else float32."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in NUMBERS or name[-2:] in ("_b", "_t", "_g"):
            return "i32"
        if name == "lengths":
            return "*i32" if constants["PACKED"] else "*i64"
        return "*bf16" if name in SERIES else "*fp32"

    signature = {name: kind(name) for name in kernel.arg_names}
    known = {name: value for name, value in constants.items() if name in signature}
    found = compile_kernel(ASTSource(kernel, signature, known), target=GPUTarget("cuda", 90, 32))
    assert found.asm["cubin"]
