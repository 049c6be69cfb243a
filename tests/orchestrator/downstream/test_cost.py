"""Costs: what a kept one stands for, what is counted, and that nothing else runs while one is measured."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.downstream import cost, run
from orchestrator.downstream.cost import CHANNELS, cost_of, measure
from orchestrator.downstream.encoders import Encoder
from tests.orchestrator.downstream.scenes import pool_of, spec_of, users_of, write_set

Exports = dict[str, Path | None]


def test_a_cost_is_kept_for_the_samples_that_were_measured(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = Encoder("raw", None, 4), []
    found = measure(encoder, pool_of(scenes, samples=5), "cpu")
    monkeypatch.setattr(cost, "measure", lambda *arguments: calls.append(1) or found)
    for count, options in enumerate([{"samples": 5}, {"samples": 6}, {"samples": 6, "sets": ["B"]}], start=1):
        for _ in range(2):
            assert cost_of(encoder, pool_of(scenes, **options), "cpu", tmp_path) == found
            assert len(calls) == count
    monkeypatch.setattr(cost, "METHOD", -1)
    cost_of(encoder, pool_of(scenes, samples=6, sets=["B"]), "cpu", tmp_path)
    assert len(calls) == 4


def test_slots_are_no_channels(tmp_path: Path, exports: Exports) -> None:
    shape = (2, 8, 8)
    write_set(tmp_path / "store", spec_of("A", shape=shape), *users_of(5, 0, shape))
    found = measure(Encoder("wimamba", exports["wimamba"], 4), pool_of(tmp_path / "store"), "cpu")
    assert (found.batch, found.tokens) == (CHANNELS, 2 * 5)


def test_on_ray_costs_are_measured_one_by_one_after_all_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log: list[tuple[str, str]] = []

    def remote(**resources: Any) -> Any:
        def of(function: Any) -> Any:
            def submit(*arguments: Any) -> Any:
                name = next(one.name for one in arguments if isinstance(one, Encoder))
                log.append(("begin", name))
                return lambda: function(*arguments)

            return SimpleNamespace(remote=submit)

        return of

    def get(reference: Any) -> Any:
        found = reference()
        log.append(("end", found if isinstance(found, str) else found[1]))
        return found

    fake = SimpleNamespace(remote=remote, get=get, wait=lambda waiting: (waiting[:1], waiting[1:]))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayTaskError=RuntimeError))
    monkeypatch.setattr(run, "run_work", lambda bench, encoder, *others: f"scores of {encoder.name}")
    monkeypatch.setattr(run, "cost_of", lambda encoder, *others: f"cost of {encoder.name}")
    encoders = [Encoder(name, None, 4) for name in "ab"]
    found = run._on_ray(SimpleNamespace(pool=None), encoders, tmp_path, "cpu", print)  # type: ignore[arg-type]
    assert found == [("scores of a", "cost of a"), ("scores of b", "cost of b")]
    assert [who for what, who in log if what == "end"] == ["scores of a", "scores of b", "cost of a", "cost of b"]
    assert log[-4:] == [("begin", "a"), ("end", "cost of a"), ("begin", "b"), ("end", "cost of b")]
