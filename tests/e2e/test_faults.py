"""The fault matrix: nothing lost, nothing twice, the same losses to the last bit, nothing left behind."""

import os

import pytest

from tests.e2e.matrix.fault_cases import CASES, NEED_ROOT
from tests.e2e.matrix.faults import Bench, Finding, start_bench

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Finding]:
    return start_bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("case", CASES)
def test_fault(started: tuple[Bench, Finding], case: str) -> None:
    if case in NEED_ROOT and os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    bench, undisturbed = started
    assert not undisturbed.problems()
    assert not CASES[case](bench).problems()
