"""The GPU suite: one device and one rank in this process, no other machine, no engine beside torch and DeepSpeed.

``--device cpu`` runs what has a CPU form.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.scan.backends import choose_backend
from models.scan.kernel_package import load_fault
from tests.stores import make_random_store

BUILD = pytest.StashKey[tuple[subprocess.Popen[bytes], Path]]()
LEFT_OUT = pytest.StashKey[int]()
BUILD_TIMEOUT_S = 480


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", choices=("cpu", "cuda"), help="where the GPU suite runs")
    parser.addoption("--kernel-sources", default="", help="sources of mamba-ssm and causal-conv1d, to be compiled")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Kernels compile beside the tests."""
    if sources := session.config.getoption("--kernel-sources", ""):
        folder = Path(tempfile.mkdtemp(prefix="kernels-"))
        command = [sys.executable, "-m", "tests.gpu.build_kernels", sources, str(folder)]
        log = (folder / "log").open("w")
        session.config.stash[BUILD] = (subprocess.Popen(command, stdout=log, stderr=log), folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A build that nobody waits for any more ends. Where no GPU is, it is no fault that no test ran."""
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(LEFT_OUT, 0):
        session.exitstatus = pytest.ExitCode.OK
    if build := session.config.stash.get(BUILD, None):
        build[0].kill()
        build[0].wait()


@pytest.fixture(scope="session")
def compiled_kernels(request: pytest.FixtureRequest) -> None:
    """Waits for the kernels where they are compiled; the tests say themselves what does not load."""
    if build := request.config.stash.get(BUILD, None):
        process, folder = build
        code = process.wait(BUILD_TIMEOUT_S)
        assert code == 0, (folder / "log").read_text()[-3000:]
        sys.path.append(str(folder))
        load_fault.cache_clear()
        choose_backend.cache_clear()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU the suite is left out where it was selected; what needs compiled kernels comes last."""
    items.sort(key=lambda item: "mamba_ssm" in item.name)
    if config.getoption("--device", "cuda") == "cuda" and not torch.cuda.is_available():
        others = [item for item in items if item.get_closest_marker("gpu") is None]
        config.stash[LEFT_OUT] = len(items) - len(others)
        items[:] = others


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line on what was left out."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"left out: {count} tests, no GPU here; --device cpu runs what has a CPU form")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the suite runs."""
    return str(request.config.getoption("--device", "cuda"))


@pytest.fixture(scope="session")
def on_gpu(device: str) -> None:
    """For tests that have no CPU form."""
    if device != "cuda":
        pytest.skip("only a GPU shows this")


@pytest.fixture(scope="session")
def one_rank(device: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    if device == "cuda":
        torch.cuda.set_device(0)
    store = tmp_path_factory.mktemp("group") / "store"
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels of a few plane waves: sets of three lengths, one with partial patches, and two held out."""
    return make_random_store(tmp_path_factory.mktemp("channels") / "store", np.random.default_rng(7))
