"""Columns of an experiment's table of runs in MLflow: strategy, padding, time and error beside each other.

MLflow keeps a shared view of an experiment as a tag with JSON; its page opens the view whose key the address names.
"""

import json

VIEW_KEY = "wavetrain"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
COLUMNS = (
    "params.`model.name`",
    "params.`batching.strategy`",
    "metrics.`data/epoch_padding_ratio`",
    "metrics.`time/epoch_min`",
    "metrics.`perf/epoch_tokens_per_s`",
    "metrics.`eval/nmse_db/avg`",
)


def view_tags() -> dict[str, str]:
    """Tags of an experiment that carry the view."""
    return {VIEW_TAG: json.dumps({"selectedColumns": COLUMNS})}


def view_address(server: str, experiment_id: str) -> str:
    """Address of the view at an MLflow server."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"
