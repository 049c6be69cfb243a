"""The recipe for nodes with GPUs, as far as a machine without one can hold it: page, profile and versions agree."""

import re
import subprocess
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from torch.utils import cpp_extension

from orchestrator.spec.cluster import Profile, load_profile
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "gpu-nodes.md"
RECIPE, KERNELS = (block.body for block in blocks(PAGE)[:2])
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
GPU = PROJECT["tool"]["wavetrain"]["gpu"]
SED = re.search(r"^sed -i '(.*)' ", KERNELS, re.M)


def test_the_versions_are_those_of_the_project() -> None:
    assert f"torch=={GPU['torch']} --index-url https://download.pytorch.org/whl/{GPU['index']}\n" in RECIPE
    assert f"torch=={GPU['torch']}\n" in (ROOT / "constraints.txt").read_text()
    assert " ".join(GPU["kernels"]) in KERNELS and f"TORCH_CUDA_ARCH_LIST={GPU['architectures']}\n" in KERNELS


def test_the_nodes_load_what_was_installed() -> None:
    slurm = load_profile(ROOT / "cluster.yaml", "h800").slurm
    assert slurm is not None
    module = re.search(r"^module load (\S+)", RECIPE, re.M)
    assert module and module[1].replace("/", "").replace(".", "").replace("cuda", "cu") == GPU["index"]
    assert slurm.setup == (f"module load {module[1]}", "source .venv/bin/activate")
    assert "source .venv/bin/activate" in RECIPE.splitlines()


def test_torch_comes_before_what_would_bring_another_one() -> None:
    order = [
        RECIPE.index(text) for text in ("pip install torch==", "pip install setuptools", "pip install --constraint")
    ]
    assert order == sorted(order)
    assert "mamba-ssm" not in str(PROJECT["project"]), "an extra would be built in isolation"


def test_the_kernels_are_built_from_source_with_the_torch_that_is_there() -> None:
    for variable in ("MAMBA_FORCE_BUILD=TRUE", "MAMBA_KEEP_CUDA_BUILD=TRUE", "CAUSAL_CONV1D_FORCE_BUILD=TRUE"):
        assert variable in KERNELS
    pip = [line for line in KERNELS.splitlines() if line.startswith("pip ")]
    assert len(pip) == 2 and all("--no-build-isolation" in line and "--no-deps" in line for line in pip)


def test_the_architectures_of_a_setup_are_taken_out_and_ours_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tmp_path / "setup.py"
    setup.write_text(
        textwrap.dedent(
            """
            cc_flag = []
            if True:
                cc_flag.append("-gencode")
                cc_flag.append("arch=compute_80,code=sm_80")
                if True:
                    cc_flag.append("arch=compute_90,code=sm_90")
            flags = ["-O3"] + cc_flag
            """
        )
    )
    assert SED is not None
    subprocess.run(["sed", "-i", SED[1], str(setup)], check=True)
    names: dict[str, Any] = {}
    exec(compile(setup.read_text(), "setup.py", "exec"), names)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", GPU["architectures"])
    assert cpp_extension._get_cuda_arch_flags(names["flags"]) == ["-gencode=arch=compute_90,code=sm_90"]


def fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of the leaves of a profile."""
    names = []
    for name, field in model.model_fields.items():
        inner = next((kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
                      if isinstance(kind, type) and issubclass(kind, BaseModel)), None)  # fmt: skip
        names += fields(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


def test_every_field_of_a_profile_is_documented() -> None:
    text = (ROOT / "docs" / "launching.md").read_text() + PAGE.read_text()
    assert [name for name in fields(Profile) if f"`{name}`" not in text] == []


def test_limits_in_the_page_are_the_defaults() -> None:
    limits = Profile().time_limits
    for name, value in limits:
        assert f"| `time_limits.{name}` | {value:,} |" in PAGE.read_text()
