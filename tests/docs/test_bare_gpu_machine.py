"""docs/gpu.md's bare machine: the GPU suite and its benchmarks load with no other package than the page lists."""

import os
import re
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "gpu.md"
NOT_NEEDED = ("ray", "mlflow", "sionna", "h5py", "submitit")
FOUND_THERE = ("torch", "numpy", "pytest")

LOAD = """
import importlib, sys
for name in sys.argv[1].split():
    sys.modules[name] = None
from orchestrator.checkpoint.deepspeed_private import set_up_deepspeed
set_up_deepspeed("cpu")
import deepspeed
for name in sys.argv[2].split():
    importlib.import_module(name)
import pytest
sys.exit(pytest.main(["-m", "gpu", "tests/gpu", "-rs", "-p", "no:cacheprovider"]))
"""


def listed_packages() -> list[str]:
    """What the page has a wheel made of."""
    [command] = [block.body for block in blocks(PAGE) if "pip wheel" in block.body]
    return command.replace("\\\n", " ").partition("constraints.txt")[2].split()


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    found, open_ = set(), list(names)
    while open_:
        name = canonicalize_name(open_.pop())
        if name not in found:
            found.add(name)
            needs = [Requirement(line) for line in metadata.requires(name) or ()]
            open_ += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def packages_of_others(allowed: set[str]) -> list[str]:
    """Names under which all else that is installed here is imported."""
    owners = metadata.packages_distributions()
    return [
        name
        for name, distributions in owners.items()
        if name.isidentifier() and not {canonicalize_name(owner) for owner in distributions} & allowed
    ]


def benchmarks() -> list[str]:
    """Those of ``make bench-gpu``."""
    [rule] = re.findall(r"^bench-gpu: \$.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    return re.findall(r"benchmarks/(\w+)\.py", rule)


def test_the_suite_and_the_benchmarks_load_and_say_in_one_line_that_no_gpu_is_there() -> None:
    own = {"wavetrain", *(path.name for path in ROOT.iterdir())}
    allowed = with_dependencies(FOUND_THERE) | {canonicalize_name(name) for name in listed_packages()}
    blocked = [name for name in packages_of_others(allowed) if name not in own]
    assert set(NOT_NEEDED) <= set(blocked)
    assert len(benchmarks()) == 4
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, " ".join(blocked), " ".join(benchmarks())],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if "no GPU" in line or "SKIPPED" in line]
    assert re.match(r"left out: \d+ tests, ", line)


def test_the_wheels_are_of_pinned_versions() -> None:
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {canonicalize_name(name) for name in listed_packages()} <= {canonicalize_name(pin) for pin in pins}
