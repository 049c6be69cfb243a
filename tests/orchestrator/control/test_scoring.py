"""The tasks of a scoring: beside the training they take turns, so that ranks keep their cores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.control.ray_train import nodes
from orchestrator.control.scoring import Scores, Scoring, start_scoring
from orchestrator.evaluation.score import Score
from orchestrator.evaluation.validation import Validation
from orchestrator.spec.cluster import Profile
from tests.jobs_for_tests import small_job

VALIDATION = Validation(0.5, {}, 0.25)


class Cluster:
    """Stands in for Ray: what was submitted where, and what has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: str) -> None:
        self.alive = dict.fromkeys(nodes, True)
        self.running: dict[str, str | None] = {}
        self.results: dict[str, object] = {}
        self.cancelled: list[str] = []
        for name in ("wait", "get", "cancel", "nodes"):
            monkeypatch.setattr(f"ray.{name}", getattr(self, name))

    def task(self, name: str, result: object) -> Callable[[str | None], str]:
        def submit(node: str | None) -> str:
            self.running[name] = node
            self.results[name] = result
            return name

        return submit

    def wait(self, references: Sequence[str], num_returns: int, timeout: float | None) -> tuple[list[str], list[str]]:
        ended = [reference for reference in references if reference not in self.running][:num_returns]
        return ended, [reference for reference in references if reference not in ended]

    def get(self, reference: str) -> object:
        return self.results[reference]

    def cancel(self, reference: str, force: bool) -> None:
        self.cancelled.append(reference)

    def nodes(self) -> list[dict[str, object]]:
        return [{"NodeID": node, "Alive": alive} for node, alive in self.alive.items()]


def scoring_of(cluster: Cluster, count: int, *, one_a_node: bool) -> Scoring:
    tasks = [cluster.task(f"H{number}", [score_of(number)]) for number in range(count)]
    tasks.append(cluster.task("validation", VALIDATION))
    return Scoring(Path("export"), tasks, validates=True, one_a_node=one_a_node)


def score_of(number: int) -> Score:
    return Score("time", f"H{number}", "model", "noisy", 0.1 * number, 10)


def test_beside_the_training_a_node_scores_one_set_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, "a", "b")
    scoring = scoring_of(cluster, 4, one_a_node=True)
    found: Scores | None = None
    order = []
    for _ in range(10):
        found = scoring.poll(0.0)
        assert len(cluster.running) <= 2 and len(set(cluster.running.values())) == len(cluster.running)
        if found is not None:
            break
        order.append(dict(cluster.running))
        # The one that was begun last ends first.
        cluster.running.popitem()
    assert order[0] == {"H0": "a", "H1": "b"}
    assert found == Scores([score_of(number) for number in range(4)], VALIDATION)
    assert scoring.poll(0.0) == found


def test_a_node_that_is_gone_gets_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, "a", "b")
    cluster.alive["a"] = False
    scoring = scoring_of(cluster, 3, one_a_node=True)
    assert scoring.poll(0.0) is None
    assert cluster.running == {"H0": "b"}


def test_the_final_model_is_scored_all_at_once_wherever_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, "a")
    scoring = scoring_of(cluster, 4, one_a_node=False)
    assert scoring.poll(0.0) is None
    assert cluster.running == dict.fromkeys(["H0", "H1", "H2", "H3", "validation"])
    cluster.running.clear()
    assert scoring.poll(0.0) is not None


def test_what_is_given_up_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, "a")
    scoring = scoring_of(cluster, 4, one_a_node=True)
    scoring.poll(0.0)
    scoring.cancel()
    assert cluster.cancelled == ["H0"]
    cluster.running.clear()
    scoring.poll(0.0)
    assert not cluster.running


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "after"])
def test_every_set_has_a_task_and_validation_comes_last(beside: bool, small_store: Path) -> None:
    scoring = start_scoring(
        small_job(small_store), Profile(), small_store, ["H1", "H2"], ["R1"], small_store, beside_training=beside
    )
    assert (len(scoring.tasks), scoring.validates, scoring.one_a_node) == (3, True, beside)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_no_set_is_scored_on_a_node_whose_device_broke(
    device: str, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def remote(**options: object) -> Callable[[object], SimpleNamespace]:
        asked.append(options)
        return lambda work: SimpleNamespace(remote=lambda *arguments: "reference")

    monkeypatch.setattr("ray.remote", remote)
    monkeypatch.setattr(nodes, "known_nodes", lambda: [nodes.Node("a" * 56, "n1", {}), nodes.Node("b" * 56, "n2", {})])
    profile = Profile.model_validate({"device": device})
    scoring = start_scoring(
        small_job(small_store), profile, small_store, ["H1"], [], small_store, beside_training=False, left_out=["n2"]
    )
    assert [task(None) for task in scoring.tasks] == ["reference"]
    selector = {"label_selector": {nodes.NODE_ID: f"!in({'b' * 56})"}} if device == "cuda" else {}
    assert asked == [{"num_cpus": 1, "num_gpus": int(device == "cuda"), **selector}]
