"""Compile the operations of mamba-ssm and causal-conv1d that WiMamba calls, from their sources, for the GPU here.

    python -m tests.gpu.build_kernels SOURCES DESTINATION

For machines without a network: SOURCES holds the two unpacked source distributions; DESTINATION gets the two modules.
Real states in float32 and bfloat16 only: half of the packages' time goes into complex ones, which no model here has.
"""

import os
import shutil
import sys
from pathlib import Path

FLAGS = (
    "-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda",
    "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__", "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
)  # fmt: skip
COMPLEX = "complex_t>"
MISSING = """
#include <c10/cuda/CUDAStream.h>
#include <c10/util/complex.h>
#include "selective_scan.h"
using complex_t = c10::complex<float>;
{bodies}
"""


def main(sources: str, destination: str) -> None:
    """Both modules, one after the other; each uses all cores."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    root, folder = Path(sources), Path(destination)
    folder.mkdir(parents=True, exist_ok=True)
    _build("causal_conv1d_cuda", _only(root, "causal_conv1d*") / "csrc", "causal_conv1d.cpp", folder)
    scan = folder / "selective_scan"
    shutil.copytree(_only(root, "mamba_ssm*") / "csrc" / "selective_scan", scan, dirs_exist_ok=True)
    _leave_out_complex(scan)
    _build("selective_scan_cuda", scan, "selective_scan.cpp", folder)


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
