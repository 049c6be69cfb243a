"""A store that the tests of downstream tasks share."""

from pathlib import Path

import pytest

from tests.orchestrator.downstream.scenes import make_exports, make_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two labelled scenes."""
    return make_scenes(tmp_path_factory.mktemp("scenes") / "store")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """Untrained wimamba, lwm and hetercsi, and raw."""
    return make_exports(tmp_path_factory.mktemp("exports"), "wimamba", "lwm", "hetercsi", "raw")
