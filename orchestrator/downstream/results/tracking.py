"""A comparison in MLflow: a parent, and below it one run an encoder (at one patch side) and task."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from channels.files import parse_json, write_json
from orchestrator.downstream.results.scores import Cost, Mean, averaged
from orchestrator.downstream.run import Comparison
from orchestrator.downstream.spec import DownstreamSpec
from orchestrator.tracking.mlflow_run import Tracker, artifact_root, default_uri

PARENT_TAG = "mlflow.parentRunId"
KEPT = "mlflow.json"


def log_comparison(comparison: Comparison, files: Sequence[Path], folder: Path, runs: Path, above: str | None) -> str:
    """Send scores, costs and files; what was sent by an earlier call is not sent again. Gives the parent's id.

    MLflow keeps the parameters that a run has, so another specification, store or encoder begins other runs.

    folder: of the comparison. runs: of the runs. above: MLflow's id of a run that the parent belongs to.

    Raises:
        UserError: MLflow cannot be reached.
    """
    spec = comparison.bench.spec
    identity = _identity(comparison)
    kept = _read(folder, identity)
    parent = _tracker(spec, runs, spec.name, kept.get("parent"))
    parent.tags({"wavetrain.downstream": spec.name} | ({PARENT_TAG: above} if above else {}))
    parent.parameters({"downstream": spec.model_dump(mode="json", exclude={"mlflow"})})
    children: dict[str, dict[str, str]] = kept.get("children", {})
    groups: dict[str, list[Mean]] = {}
    for mean in averaged(comparison.scores):
        groups.setdefault(f"{spec.name}.{mean.encoder}-p{mean.patch}.{mean.task}", []).append(mean)
    costs = {(cost.encoder, cost.patch): cost for cost in comparison.costs}
    for name, means in groups.items():
        sent = hashlib.sha256(json.dumps([asdict(mean) for mean in means]).encode()).hexdigest()
        known = children.get(name, {})
        if known.get("sent") == sent:
            continue
        tracker = _tracker(spec, runs, name, known.get("run"))
        _send(tracker, parent.run_id, means, costs[means[0].encoder, means[0].patch])
        children[name] = {"run": tracker.run_id, "sent": sent}
        write_json(folder / KEPT, {"identity": identity, "parent": parent.run_id, "children": children})
    for path in files:
        parent.artifact(path)
    parent.end("FINISHED")
    write_json(folder / KEPT, {"identity": identity, "parent": parent.run_id, "children": children})
    return parent.run_id


def metrics_by_share(means: Sequence[Mean]) -> dict[int, dict[str, float]]:
    """By share of the labels in percent, the step in MLflow: ``downstream/<task>/<metric>`` and its deviation."""
    found: dict[int, dict[str, float]] = {}
    for mean in means:
        name = f"downstream/{mean.task}/{mean.metric}"
        found.setdefault(mean.share, {})[name] = mean.value
        if mean.deviation is not None:
            found[mean.share][f"{name}_deviation"] = mean.deviation
    return found


def _send(tracker: Tracker, parent: str, means: Sequence[Mean], cost: Cost) -> None:
    first, now = means[0], time.time()
    tracker.tags({PARENT_TAG: parent})
    tracker.parameters({
        "encoder": first.encoder, "patch": first.patch, "task": first.task, "unfreeze": first.unfreeze,
        "seeds": first.seeds, "parameters": cost.parameters, "tokens": cost.tokens,
    })  # fmt: skip
    for share, metrics in sorted(metrics_by_share(means).items()):
        tracker.metrics(metrics, step=share, time_s=now)
    tracker.metrics({"downstream/cost/ms": cost.ms, "downstream/cost/memory_mb": cost.memory_mb}, step=0, time_s=now)
    tracker.end("FINISHED")


def _tracker(spec: DownstreamSpec, runs: Path, name: str, run_id: str | None) -> Tracker:
    section = spec.mlflow
    artifacts = artifact_root(runs, section.experiment)
    return Tracker(section.uri or default_uri(runs), section.experiment, artifacts, name, run_id)


def _identity(comparison: Comparison) -> str:
    """Hex SHA-256 of what is compared, on what, and of where it is sent."""
    bench = comparison.bench
    parts = [
        bench.spec.model_dump(mode="json"),
        [task.model_dump(mode="json") for task in bench.tasks],
        bench.pool.store.fingerprint,
        [encoder.fingerprint() for encoder in comparison.encoders],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, identity: str) -> Mapping[str, Any]:
    """What an earlier call of the same identity has left; nothing where there was none."""
    try:
        kept = parse_json((folder / KEPT).read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and kept.get("identity") == identity else {}
