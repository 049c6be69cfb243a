"""Compile the operations of mamba-ssm and causal-conv1d that WiMamba calls, from their sources, for the GPU here.

    python -m tests.gpu.build_kernels SOURCES DESTINATION

For machines without a network: SOURCES holds the two unpacked source distributions; DESTINATION gets the two modules.
The whole of mamba-ssm takes many minutes, so what no model here calls is left out: complex states, half precision, and
the instances for a B or C that is fixed over time and for step sizes without a softplus.
"""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = (
    "-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda",
    "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__", "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
)  # fmt: skip
COMPLEX = "complex_t>"
ALWAYS = ("params.is_variable_B,", "params.is_variable_C,", "params.delta_softplus,")
ALWAYS_SWITCH = """
#define ALWAYS_SWITCH(COND, CONST_NAME, ...)                                             \\
    [&] {                                                                                \\
        TORCH_CHECK(COND, "left out of this build");                                     \\
        constexpr bool CONST_NAME = true;                                                \\
        return __VA_ARGS__();                                                            \\
    }()
"""
MISSING = """
#include <c10/cuda/CUDAStream.h>
#include <c10/util/complex.h>
#include "selective_scan.h"
using complex_t = c10::complex<float>;
{bodies}
"""


def main(sources: str, destination: str) -> None:
    """Both modules, beside each other."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    root, folder = Path(sources), Path(destination)
    folder.mkdir(parents=True, exist_ok=True)
    convolution = _only(root, "causal_conv1d*") / "csrc"
    scan = folder / "selective_scan"
    shutil.copytree(_only(root, "mamba_ssm*") / "csrc" / "selective_scan", scan, dirs_exist_ok=True)
    _leave_out_complex(scan)
    _leave_out_switches(scan)
    with ThreadPoolExecutor() as pool:
        convolved = pool.submit(_build, "causal_conv1d_cuda", convolution, "causal_conv1d.cpp", folder)
        scanned = pool.submit(_build, "selective_scan_cuda", scan, "selective_scan.cpp", folder)
        convolved.result()
        scanned.result()


def _only(root: Path, pattern: str) -> Path:
    [found] = (path for path in root.glob(pattern) if path.is_dir())
    return found


def _leave_out_complex(folder: Path) -> None:
    """Remove the instances for complex states and half precision, and put in their place functions that raise."""
    for path in {*folder.glob("*complex*.cu"), *folder.glob("*fp16*.cu")}:
        path.unlink()
    for path in folder.glob("*.cu"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if COMPLEX not in line) + "\n")
    kinds = [("at::Half", "float"), *((kind, "complex_t") for kind in ("float", "at::Half", "at::BFloat16"))]
    bodies = [
        f"template <> void selective_scan_{way}_cuda<{kind}, {state}>(SSMParams{params}&, cudaStream_t) "
        '{ TORCH_CHECK(false, "left out of this build"); }'
        for kind, state in kinds
        for way, params in (("fwd", "Base"), ("bwd", "Bwd"))
    ]
    declared = (
        "template <typename input_t, typename weight_t> void selective_scan_{0}_cuda(SSMParams{1}&, cudaStream_t);"
    )
    heads = [declared.format("fwd", "Base"), declared.format("bwd", "Bwd")]
    text = MISSING.format(bodies="\n".join(heads + bodies))
    (folder / "left_out.cpp").write_text("#include <torch/extension.h>\n" + text)


def _leave_out_switches(folder: Path) -> None:
    """Make choices that always fall the same way no choices."""
    switch = folder / "static_switch.h"
    switch.write_text("#include <c10/util/Exception.h>\n" + switch.read_text() + ALWAYS_SWITCH)
    for path in folder.glob("*.cuh"):
        text = path.read_text()
        for condition in ALWAYS:
            text = text.replace(f"BOOL_SWITCH({condition}", f"ALWAYS_SWITCH({condition}")
        path.write_text(text)


def _build(name: str, folder: Path, interface: str, destination: Path) -> None:
    from torch.utils.cpp_extension import load

    files = [folder / interface, *sorted(folder.glob("*.cu")), *folder.glob("left_out.cpp")]
    build = destination / f"build-{name}"
    build.mkdir(exist_ok=True)
    load(
        name=name,
        sources=[str(path) for path in files],
        extra_include_paths=[str(folder)],
        extra_cflags=["-O3", "-std=c++17"],
        extra_cuda_cflags=list(FLAGS),
        build_directory=str(build),
        is_python_module=False,
    )
    [module] = build.glob("*.so")
    shutil.copy2(module, destination)


if __name__ == "__main__":
    main(*sys.argv[1:])
