"""The files that docs/downstream.md shows are read as they stand there."""

from typing import Any

import pytest
import yaml

from orchestrator.downstream.spec import DownstreamSpec, make_comparison
from orchestrator.downstream.task import Task
from orchestrator.spec.yaml_files import validate
from tests.docs.pages import ROOT, blocks


@pytest.fixture(scope="module")
def shown() -> list[dict[str, Any]]:
    found = [block.body for block in blocks(ROOT / "docs" / "downstream.md") if block.language == "yaml"]
    return [yaml.safe_load(body) for body in found]


def test_a_comparison(shown: list[dict[str, Any]]) -> None:
    """Every field is named."""
    assert set(shown[0]) == set(DownstreamSpec.model_fields)
    assert make_comparison(shown[0], [], "docs").seeds == 3


def test_a_task_of_ones_own(shown: list[dict[str, Any]]) -> None:
    assert validate(Task, shown[1], "docs").name == "far"
    text = (ROOT / "docs" / "downstream.md").read_text()
    assert [name for name in Task.model_fields if f"`{name}`" not in text and f"{name}:" not in text] == []
