"""What is sent to MLflow: once for a comparison, and to runs of its own where another thing is compared or sent to."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.results import tracking
from orchestrator.downstream.results.scores import Cost, Score
from orchestrator.downstream.run import Comparison
from orchestrator.downstream.task import read_tasks
from orchestrator.downstream.work import Bench
from tests.orchestrator.downstream.scenes import comparison, pool_of

COST = Cost("raw", 4, 4, 0, 4, 1.0, 0.1, 1.0, "cpu")


class StandIn:
    """Keeps parameters as MLflow does: those that a run has stay. All runs of a test, by their ids."""

    def __init__(self, servers: dict[str, Any], uri: str, name: str, run_id: str | None) -> None:
        runs = servers.setdefault(uri, {})
        self.run_id = run_id if run_id in runs else f"{uri}-{len(runs)}"
        self.kept = runs.setdefault(self.run_id, {"name": name, "parameters": {}, "tags": {}, "sent": 0})

    def tags(self, tags: dict[str, str]) -> None:
        self.kept["tags"].update(tags)

    def parameters(self, nested: dict[str, Any]) -> None:
        self.kept["parameters"] = {**nested, **self.kept["parameters"]}

    def metrics(self, values: Any, step: int, time_s: float) -> None:
        self.kept["sent"] += 1

    def end(self, status: str) -> None:
        self.kept["status"] = status


def test_another_comparison_of_the_same_name_has_runs_of_its_own(
    scenes: Path, exports: dict[str, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: dict[str, Any] = {}
    monkeypatch.setattr(
        tracking, "Tracker", lambda uri, experiment, artifacts, name, run_id: StandIn(servers, uri, name, run_id)
    )
    pool, tasks = pool_of(scenes, samples=4), read_tasks(["los"])

    def log(encoder: Encoder, **fields: Any) -> str:
        unfreeze = fields.get("unfreeze", 0)
        spec = comparison(scenes, {"raw": None}, tasks=["los"], seeds=1, **{"mlflow": {"uri": "one"}, **fields})
        scores = (Score("raw", 4, "los", "weighted_f1", 100, 0, 0.5, unfreeze, 3, 1),)
        found = Comparison(Bench(spec, pool, tasks, {}, ()), (encoder,), scores, (COST,), ())
        return tracking.log_comparison(found, [], tmp_path, tmp_path, None)

    raw = Encoder("raw", None, 4)
    first = log(raw)
    assert log(raw) == first and len(servers["one"]) == 2
    assert servers["one"][first]["parameters"]["downstream"]["unfreeze"] == 0
    other = log(raw, unfreeze=2, split={"by": "random"})
    assert other != first and len(servers["one"]) == 4
    assert servers["one"][other]["parameters"]["downstream"]["unfreeze"] == 2
    [child] = [run for run in servers["one"].values() if run["tags"].get(tracking.PARENT_TAG) == other]
    assert child["parameters"]["unfreeze"] == 2
    # Another encoder under the same name, and another server.
    assert log(Encoder("raw", exports["lwm"], 4), unfreeze=2, split={"by": "random"}) not in (first, other)
    log(raw, mlflow={"uri": "two"})
    assert [run["sent"] > 0 for run in servers["two"].values()] == [False, True]
