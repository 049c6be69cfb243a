"""Fixtures that several rooms share."""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranks import RankPools

os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and what the tests start would not heed Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LEFT_OUT = pytest.StashKey[int]()
LEFT_OUT_OF_WORKER = "left_out"
SAME_RUNS = ("tests/e2e/test_run.py", "tests/e2e/test_report.py")
SLOW = (
    "tests/e2e/",
    "tests/models/layers/test_blocks.py",
    "tests/orchestrator/checkpoint/",
    "tests/orchestrator/training/",
)
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """No example of a property test is too slow: how long one takes says as much of the machine as of the code."""
    # The GPU suite runs where it is not installed.
    if importlib.util.find_spec("hypothesis"):
        from hypothesis import HealthCheck, settings

        passed_over = {*settings.default.suppress_health_check, HealthCheck.too_slow}
        settings.register_profile("any speed", deadline=None, suppress_health_check=passed_over)
        settings.load_profile("any speed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the tests, a file's stay together, and so do files that look at the same runs."""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return SAME_RUNS[0] if file in SAME_RUNS else file

    return FileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those of many seconds come first: at the end none waits for them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the launching tests that the default selection leaves out."""
    launching = [item for item in items if item.get_closest_marker("launching")]
    if launching:
        stash = launching[0].config.stash
        stash[LEFT_OUT] = stash.get(LEFT_OUT, 0) + len(launching)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs a part of the tests hands its count on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[LEFT_OUT_OF_WORKER] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take the count of such a process: each of them collects all tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get(LEFT_OUT_OF_WORKER, 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line on what was left out, and why."""
    from tests.e2e.slurm.cluster import missing_programs

    missing = missing_programs()
    slurm = f"Slurm is not installed here: {', '.join(missing)}" if missing else "Slurm is installed here"
    if config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out: {config.stash[LEFT_OUT]} tests of launching ({slurm}): make test-launching"
        )


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """Commands that a test calls in its own process give torch all cores, for which later tests would contend."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        sys.modules["torch"].set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real channels beside the project; the test is left out where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real channel data at ../shared/data")
    return REAL_DATA


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPools]:
    """``ranks(world, function, ...)`` runs a function on that many gloo ranks."""
    pools = RankPools()
    yield pools
    pools.close()


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of random channels: four pre-training sets of three lengths (one with partial patches), two held out."""
    from tests.stores import make_random_store

    return make_random_store(tmp_path_factory.mktemp("store") / "small", np.random.default_rng(7))
