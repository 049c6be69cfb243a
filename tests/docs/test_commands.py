"""Runs the documentation: the ``sh`` blocks of the pages, in the order of a reader."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, links

BESIDE = ("jobs", "cluster.yaml", "docs", "tests")
DEMO_STORE = "data/demo"
TIMEOUT_S = 1500
pytestmark = [pytest.mark.docs, pytest.mark.timeout(TIMEOUT_S)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader works in: the checkout, here as links, so that runs and channels stay outside of it.

    Benchmarks are copied: they write their records beside themselves. So are the demo's channels where they have been
    made: the command that makes them then says that they are there.
    """
    folder = tmp_path_factory.mktemp("reader")
    if (ROOT / DEMO_STORE).exists():
        shutil.copytree(ROOT / DEMO_STORE, folder / DEMO_STORE)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    command = folder / "bin" / "wavetrain"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m jobs.cli.main "$@"\n')
    command.chmod(0o755)
    return folder


def shell_blocks(page: str) -> list[Block]:
    """The blocks of a page that its reader can run anywhere."""
    return [block for block in blocks(ROOT / "docs" / page) if block.language == "sh" and not block.note]


JOURNEY = [page for page in links(ROOT / "docs" / "README.md") if shell_blocks(page)]


def test_the_journey_starts_with_the_quick_start() -> None:
    assert JOURNEY[0] == "quick-start.md"
    assert len(JOURNEY) > 5


@pytest.mark.parametrize("page", JOURNEY)
def test_the_blocks_of_a_page_run(page: str, folder: Path) -> None:
    """The pages are read in the order of the index, in one folder: later ones use what the first made."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for block in shell_blocks(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.body],
            cwd=folder, env=environment, text=True, capture_output=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}:\n{block.body}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
