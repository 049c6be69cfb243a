"""Costs that are kept: for the set that they were measured on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.downstream import cost
from orchestrator.downstream.results.scores import Cost


def test_a_cost_of_another_set_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = SimpleNamespace(key="tiny", fingerprint=lambda: "weights")
    measured: list[str] = []

    def measure(encoder: Any, pool: Any, device: str) -> Cost:
        measured.append(pool.sets[0].name)
        return Cost(**dict.fromkeys(Cost.__slots__, 0))

    monkeypatch.setattr(cost, "measure", measure)
    for name in ("yard", "yard", "lawn"):
        pool: Any = SimpleNamespace(store=SimpleNamespace(fingerprint="store"), sets=(SimpleNamespace(name=name),))
        cost.cost_of(encoder, pool, "cpu", tmp_path)
    assert measured == ["yard", "lawn"]
